"""A bench that is this machine: the device command in a fresh process.

A fresh process, because the host's own memory, threads and imports would be measured otherwise.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from edgeprune.bench.ask import refused, silent
from edgeprune.bench.board import device_info
from edgeprune.bench.device import Progress
from edgeprune.machine import installed
from edgeprune.records import DeviceInfo, write_json
from edgeprune.records.address import LOCAL
from edgeprune.records.request import Request


def tied(info: DeviceInfo, runtime: str) -> dict[str, str]:
    """See `Bench.versions`. A TensorRT engine runs on the GPU and the exact version that built it; power modes aren't
    in it, since the engine of another one runs."""
    found = {runtime: info.runtimes.get(runtime, "not installed")}
    if runtime == "tensorrt":
        more = {"board": info.board, "l4t": info.l4t, "gpu": info.gpu}
        found |= {name: value for name, value in more.items() if value}
    return found


class LocalBench:
    """This machine."""

    address = LOCAL

    @property
    def info(self) -> DeviceInfo:
        """See `Bench.info`."""
        return device_info()

    @property
    def architecture(self) -> str:
        """See `Bench.architecture`."""
        return platform.machine()

    def versions(self, runtime: str) -> dict[str, str]:
        """See `Bench.versions`; without importing anything."""
        if runtime == "tensorrt":
            return tied(device_info(), runtime)
        return {runtime: installed(runtime).get(runtime, "not installed")}

    def ask(self, request: Request, into: Path, on_progress: Progress = silent) -> None:
        """See `Bench.ask`."""
        with tempfile.TemporaryDirectory() as folder:
            asked = Path(folder) / "request.json"
            write_json(asked, request.moved(lambda file: str(Path(file).resolve())))
            with (Path(folder) / "stderr").open("w+") as errors:
                command = [sys.executable, "-m", "edgeprune.bench", str(asked), str(into / "answer.json")]
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
                try:
                    assert process.stdout is not None
                    for line in process.stdout:
                        step = json.loads(line)
                        on_progress(step["what"], step["done"], step["total"])
                    code = process.wait()
                finally:
                    process.kill()  # nothing, where it has ended; a user's Ctrl-C otherwise leaves it measuring
                    process.wait()
                errors.seek(0)
                said = errors.read().strip()
            if code:
                raise refused(code, said, "this machine")
