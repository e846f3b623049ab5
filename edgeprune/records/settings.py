"""Settings: how a runtime is told to run an engine. Part of the engine as far as its latency goes.

Rules:
- What changes latency and leaves accuracy alone is here; arithmetic is the engine's precision. A plugin is both: it
  stands here, and accuracy is taken with it.
- The defaults are what a runtime does when it is left alone, save for OpenVINO's hint, which has no neutral value.
- Nothing that the runtime at hand hasn't got is quietly ignored: TargetProfile refuses it.

Sources: onnxruntime.SessionOptions and its session configuration keys (`session.intra_op.allow_spinning`,
`session.intra_op_thread_affinities`); OpenVINO `hint.performance_mode`, `inference_num_threads`, `cache_dir`;
sched_setaffinity(2).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeprune.records.base import Record

#: OpenVINO's names of what computes.
Plugin = Literal["CPU", "GPU", "NPU"]
#: OpenVINO's PERFORMANCE_HINT, in small letters.
Hint = Literal["latency", "throughput"]
ThreadCount = Annotated[int, Field(ge=0, le=256)]
#: As the kernel numbers them, from 0: 'processor' in /proc/cpuinfo.
CoreNumber = Annotated[int, Field(ge=0, le=1023)]


class Settings(Record):
    """How an engine is run."""

    threads: ThreadCount = 0
    """Threads of one inference; 0 = one for each core that the process may use."""
    cores: tuple[CoreNumber, ...] = ()
    """Cores that the process is held to, one thread each; none = the system and the runtime choose."""
    spinning: bool = True
    """ONNX Runtime: whether idle threads wait by turning in a loop, which is quick to wake up and takes their cores'
    time from everything else."""
    plugin: Plugin = "CPU"
    """OpenVINO: what computes."""
    hint: Hint = "latency"
    """OpenVINO: what it lays itself out for; `throughput` makes several streams, which one inference at a time can't
    use."""
    cache: bool = False
    """OpenVINO: whether the compiled model is kept on the device for the next start."""

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if len(set(self.cores)) != len(self.cores):
            raise ValueError("cores are distinct core numbers")
        if self.cores and self.threads > len(self.cores):
            raise ValueError("there are no more threads than cores that they are held to")
        if self.plugin != "CPU" and (self.threads or self.cores):
            raise ValueError(f"threads and cores are the CPU's; the plugin is {self.plugin}")
        return self

    def words(self) -> str:
        """For people: what differs from a runtime that is left alone, threads always."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else "one thread a core"
        told = [threads if self.plugin == "CPU" else self.plugin]
        if self.cores:
            told.append(f"on core{'s' * (len(self.cores) > 1)} {' '.join(map(str, self.cores))}")
        if not self.spinning:
            told.append("not spinning")
        if self.hint != "latency":
            told.append(f"hint {self.hint}")
        return ", ".join(told)
