"""Settings: how a runtime is told to run an engine. Part of the engine as far as its latency goes.

Rules:
- What changes latency and leaves accuracy alone is here; arithmetic is the engine's precision. Three are both, a
  plugin, ONNX Runtime's optimisation level, which chooses kernels, and what the rest of an INT8 engine computes in:
  they stand here, and accuracy is taken with them.
- The defaults are what a runtime does when it is left alone, save for OpenVINO's hint, which has no neutral value.
- Nothing that the runtime at hand hasn't got is quietly ignored: TargetProfile refuses it.

Sources: onnxruntime.SessionOptions and its session configuration keys (`session.intra_op.allow_spinning`,
`session.intra_op_thread_affinities`; graph_optimization_level, enable_cpu_mem_arena, enable_mem_pattern); OpenVINO
`hint.performance_mode`, `inference_num_threads`, `num_streams`, `cache_dir`; sched_setaffinity(2).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeprune.records.base import Record

#: OpenVINO's names of what computes.
Plugin = Literal["CPU", "GPU", "NPU"]
#: OpenVINO's PERFORMANCE_HINT, in small letters.
Hint = Literal["latency", "throughput"]
#: ONNX Runtime's levels of graph optimisation: basic folds constants, extended merges operators (Q/DQ too), all lays
#: tensors out in blocks of channels as well.
Optimization = Literal["all", "extended", "basic"]
#: What the layers of an INT8 engine compute in that aren't quantized.
Rest = Literal["fp32", "bf16"]
StreamCount = Annotated[int, Field(ge=0, le=256)]
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
    optimization: Optimization = "all"
    """ONNX Runtime: how far the graph is optimised at the start."""
    arena: bool = True
    """ONNX Runtime: whether memory is kept between inferences (an arena, planned after the first one), or asked of the
    system anew for each tensor: slower, and smaller."""
    plugin: Plugin = "CPU"
    """OpenVINO: what computes."""
    hint: Hint = "latency"
    """OpenVINO: what it lays itself out for; `throughput` makes several streams, which one inference at a time can't
    use."""
    streams: StreamCount = 0
    """OpenVINO: inferences that may run side by side, which share the threads; 0 = as many as the hint brings."""
    cache: bool = False
    """OpenVINO: whether the compiled model is kept on the device for the next start."""
    rest: Rest = "fp32"
    """OpenVINO on a CPU: what an INT8 engine computes in where it isn't quantized; bf16 is FP32 on a CPU without it."""

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if len(set(self.cores)) != len(self.cores):
            raise ValueError("cores are distinct core numbers")
        if self.cores and self.threads > len(self.cores):
            raise ValueError("there are no more threads than cores that they are held to")
        if self.plugin != "CPU" and (self.threads or self.cores):
            raise ValueError(f"threads and cores are the CPU's; the plugin is {self.plugin}")
        if self.plugin == "NPU" and self.streams:
            raise ValueError("streams are the CPU's and the GPU's; the plugin is NPU")
        return self

    @property
    def numbers(self) -> dict[str, str]:
        """The part that numbers may depend on: with the same, accuracy needn't be asked again."""
        return {"plugin": self.plugin, "optimization": self.optimization, "rest": self.rest}

    def of(self, precision: str) -> Settings:
        """Those of an engine in a precision: `rest` is for INT8 alone."""
        return self if precision == "int8" else self.model_copy(update={"rest": "fp32"})

    def words(self) -> str:
        """For people: what differs from a runtime that is left alone, threads always."""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else "one thread a core"
        told = [threads if self.plugin == "CPU" else self.plugin]
        if self.cores:
            told.append(f"on core{'s' * (len(self.cores) > 1)} {' '.join(map(str, self.cores))}")
        if not self.spinning:
            told.append("not spinning")
        if self.optimization != "all":
            told.append(f"optimization {self.optimization}")
        if not self.arena:
            told.append("no arena")
        if self.hint != "latency":
            told.append(f"hint {self.hint}")
        if self.streams:
            told.append(f"{self.streams} stream{'s' * (self.streams != 1)}")
        if self.rest != "fp32":
            told.append(f"the rest in {self.rest}")
        return ", ".join(told)
