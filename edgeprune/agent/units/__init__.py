"""The agent's systemd service and timer, written for one configuration.

Rules:
- What they say beside paths, the user and times is in the two files here; nothing is enabled by writing them.
- The service may write the agent's folder and the folder of the metrics, nothing else. Devices stay visible
  (no PrivateDevices): engines are built and tested on the GPU.
- The delay is a device's own and drawn anew each time, so that a fleet that was switched on together doesn't poll
  together.

Sources: systemd.exec(5), systemd.timer(5), systemd.service(5) of systemd 247 and later.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from edgeprune.errors import UpdateError
from edgeprune.records.agent import AgentConfig
from edgeprune.records.files import write_bytes

FILES = ("edgeprune-agent.service", "edgeprune-agent.timer")
_TIME = re.compile(r"[0-9]+ ?(s|sec|min|h|d|day)?( [0-9]+ ?(s|sec|min|h|d|day)?)*")


def install(config: AgentConfig, file: Path, into: Path, user: str, every: str, jitter: str) -> tuple[Path, ...]:
    """Write both files; returns their paths.

    Args:
        file: The agent.yaml that the service reads.
        into: Where they go.
        user: Who the agent runs as.
        every, jitter: Between polls, and how much later at most; as systemd says it.

    Raises:
        UpdateError: A value that would mean something else to systemd.
        DeviceError: The folder can't be written.
    """
    for name, value in (("--every", every), ("--jitter", jitter)):
        if not _TIME.fullmatch(value):
            raise UpdateError("That is no time.", where=name, expected="as systemd says it: 1h, 10min, 30s", got=value)
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", user):
        raise UpdateError("That is no user's name.", where="--user", got=user)
    writable = [config.folder, *([str(Path(config.metrics).parent)] if config.metrics else [])]
    said = {
        "user": user, "python": sys.executable, "config": str(file.absolute()), "folder": config.folder,
        "writable": " ".join(writable), "every": every, "jitter": jitter,
    }  # fmt: skip
    for name, value in said.items():
        if name not in ("writable", "every", "jitter") and re.search(r"[\s%\"'\\$]", value):
            raise UpdateError("A path for systemd has no spaces, quotes, % or $.", where=name, got=value)
    for name in FILES:
        text = (Path(__file__).parent / name).read_text(encoding="utf-8")
        for key, value in said.items():
            text = text.replace("{" + key + "}", value)
        write_bytes(into / name, text.encode())
    return tuple(into / name for name in FILES)
