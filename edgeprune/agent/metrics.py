"""What the agent did, for Prometheus: a file that node_exporter's textfile collector reads.

Source: Prometheus exposition formats, text format 0.0.4; node_exporter, 'Textfile Collector' (written under another
name and renamed).
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from edgeprune.records.agent import AgentConfig, AgentState
from edgeprune.records.device_status import DeviceState
from edgeprune.records.files import write_bytes


def write(file: Path, config: AgentConfig, state: AgentState, *, at: float, code: int, requests: int, got: int) -> None:
    """Write all metrics.

    Args:
        at: Seconds since the epoch.
        code: What this go ends with.
        requests, got: How many it made, and bytes that came.

    Raises:
        DeviceError: The file can't be written.
    """
    write_bytes(file, text(config, state, at=at, code=code, requests=requests, got=got).encode())


def text(config: AgentConfig, state: AgentState, *, at: float, code: int, requests: int, got: int) -> str:
    """The same as text."""
    word = state.word
    about = {"device": config.device, "product": config.product, "channel": config.channel, "sku": config.sku}
    lines: list[str] = []

    def gauge(name: str, told: str, *values: tuple[dict[str, str], float]) -> None:
        lines.append(f"# HELP edgeprune_agent_{name} {told}")
        lines.append(f"# TYPE edgeprune_agent_{name} gauge")
        for labels, value in values:
            inside = ",".join(f'{key}="{_escaped(said)}"' for key, said in {**about, **labels}.items())
            lines.append(f"edgeprune_agent_{name}{{{inside}}} {value:g}" if value < 1e6 else
                         f"edgeprune_agent_{name}{{{inside}}} {value:.0f}")  # fmt: skip

    gauge("release", "Counter of the release that runs; 0 is the factory model.", ({}, word.counter if word else 0))
    states = get_args(DeviceState)
    gauge("state", "1 for the state that the device is in.",
          *(({"state": one}, float(word is not None and word.state == one)) for one in states))  # fmt: skip
    gauge("last_run_timestamp_seconds", "When the agent last ran.", ({}, at))
    if state.floor.time is not None:
        seen = state.floor.time.timestamp()
        gauge("repository_timestamp_seconds", "When the repository was last found in order.", ({}, seen))
    gauge("last_exit_code", "What the agent's last run ended with.", ({}, code))
    gauge("last_run_requests", "Requests of the last run.", ({}, requests))
    gauge("last_run_received_bytes", "Bytes that the last run received.", ({}, got))
    gauge("status_unheard", "1 while the device's last word hasn't been heard.", ({}, float(state.seq > state.heard)))
    if state.outcome is not None and state.outcome.latency_ms is not None:
        latency = state.outcome.latency_ms / 1e3
        gauge("self_test_latency_seconds", "Median latency of the last self-test.", ({}, latency))
    return "\n".join(lines) + "\n"


def _escaped(said: str) -> str:
    return said.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
