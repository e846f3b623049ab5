"""A whole aarch64 machine under qemu-system-aarch64: started, listened to at its serial console, its plug pulled.

Rules:
- The plug is SIGKILL to the emulator: what the machine hadn't brought to its disk is gone. What it had handed to the
  disk is there, flushed or not: a disk's own cache isn't lost, so this is the page cache's power cut and no more.
- The disk of a machine that is off is looked at in a copy, in which e2fsck has done what the machine's own kernel will:
  the original's journal is left to the machine.
- Neither a watchdog nor a time to start in: an emulator is slow, and may be stopped for minutes by whoever needs its
  core.

Sources: qemu(1); QEMU docs, system/arm/virt; systemd(1), kernel command line; debugfs(8); e2fsck(8)
(exit code 1: errors corrected).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeprune.machine import cores, die_with_parent
from edgeprune.records import Release
from edgeprune.records.agent import AgentState
from edgeprune.runtime.bundle import open_slot
from tests.agent.card import FOLDER, Card

EMULATOR = "qemu-system-aarch64"
#: A Raspberry Pi 4's processor.
CPU, MEMORY_MB = "cortex-a72", 512
KERNEL = "console=ttyAMA0 quiet loglevel=4 panic=-1 systemd.unit=multi-user.target systemd.mask=getty.target"
#: An immutable /etc is what its maker has set up: nothing is made anew at the first start.
KERNEL += " systemd.condition-needs-update=false systemd.firstboot=false systemd.show_status=false"
KERNEL += " systemd.service_watchdogs=no systemd.default_timeout_start_sec=1h"
#: Seconds that anything may take.
PATIENCE_S = 1800.0
LOOK_S = 0.05


class SilentError(AssertionError):
    """The machine doesn't say what is waited for."""


@dataclass(frozen=True)
class Found:
    """What lies on the disk of a machine that is off.

    Attributes:
        release: Counter of the model that is current, whole; 0: the factory model.
        state: The agent's memory; None where there is none yet.
        left: Names of what is on its way.
    """

    release: int
    state: AgentState | None
    left: tuple[str, ...]

    @property
    def step(self) -> str:
        """Of the update that was on its way; 'no update' where there was none."""
        return self.state.update.step if self.state and self.state.update else "no update"


@dataclass
class Machine:
    """A machine that is on or off.

    Attributes:
        boots: Times that it was started.
    """

    card: Card
    folder: Path
    boots: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _read: int = field(default=0)

    @property
    def console(self) -> Path:
        """What this start's serial console says."""
        return self.folder / f"console-{self.boots}.log"

    def start(self) -> None:
        assert self._process is None
        self.boots += 1
        self._read = 0
        processors = min(2, cores())
        self._process = subprocess.Popen(
            [
                EMULATOR, "-M", "virt", "-cpu", CPU, "-m", str(MEMORY_MB), "-smp", str(processors), "-nodefaults",
                "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi,tb-size=256",
                "-kernel", str(self.card.kernel), "-initrd", str(self.card.initrd), "-append", KERNEL,
                "-drive", f"if=none,id=card,format=raw,file={self.card.image}",
                "-device", "virtio-blk-device,drive=card",
                "-netdev", "user,id=lan", "-device", "virtio-net-device,netdev=lan",
                "-chardev", f"file,id=console,path={self.console}", "-serial", "chardev:console",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=die_with_parent,
        )  # fmt: skip

    def cut(self) -> None:
        """Pull the plug."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.communicate()
            self._process = None

    def wait(self, *patterns: str, alarm: str = "") -> re.Match[str]:
        """Wait until the console has said one of some things since the last wait; returns it.

        Args:
            alarm: What it must not have said since it was started.

        Raises:
            SilentError: It doesn't, it said the other, or it is off.
        """
        wanted = re.compile("|".join(f"(?:{one})" for one in patterns))
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            said = self.said()
            found = wanted.search(said, self._read)
            bad = re.search(alarm, said) if alarm else None
            if bad:
                raise SilentError(f"the machine said '{bad[0]}', not '{wanted.pattern}'\n{said[-6000:]}")
            if found:
                self._read = found.end()
                return found
            assert self._process is not None
            if self._process.poll() is not None:
                errors = self._process.stderr.read().decode(errors="replace") if self._process.stderr else ""
                raise SilentError(f"the machine is off: {errors}\n{said[-6000:]}")
            time.sleep(LOOK_S)
        raise SilentError(f"the machine didn't say '{wanted.pattern}' in {PATIENCE_S:g} s\n{self.said()[-6000:]}")

    def said(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def answer(self) -> dict[str, Any]:
        """The application's next answer: {"release", "image", "boxes"}."""
        answer: dict[str, Any] = json.loads(self.wait(r'(?<=: )\{"release": .*\}(?=\s*\n)')[0])
        return answer

    def look(self) -> Found:
        """Read the disk of the machine that is off, and check the model that is current, file by file.

        Raises:
            BundleError: It isn't whole.
        """
        assert self._process is None
        copy, out = self.folder / "copy.img", self.folder / "copy"
        try:
            subprocess.run(["cp", "--sparse=always", str(self.card.image), str(copy)], check=True)
            mended = subprocess.run(["e2fsck", "-p", str(copy)], capture_output=True, text=True)
            assert mended.returncode in (0, 1), mended.stdout + mended.stderr
            out.mkdir()
            subprocess.run(
                ["debugfs", "-R", f"rdump {FOLDER} {out}", str(copy)], check=True, capture_output=True
            )  # fmt: skip
            return read(out / Path(FOLDER).name)
        finally:
            copy.unlink(missing_ok=True)
            shutil.rmtree(out, ignore_errors=True)


def read(folder: Path) -> Found:
    """What an agent's folder holds."""
    slot = folder / os.readlink(folder / "current")
    open_slot(slot)
    release, state = slot / "release.json", folder / "state.json"
    left = [path for place in ("staging", "incoming") for path in (folder / place).rglob("*") if path.is_file()]
    return Found(
        release=Release.model_validate_json(release.read_text()).counter if release.is_file() else 0,
        state=AgentState.model_validate_json(state.read_text()) if state.is_file() else None,
        left=tuple(sorted(str(path.relative_to(folder)) for path in left)),
    )
