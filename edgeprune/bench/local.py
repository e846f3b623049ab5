"""The host half's way to a device that is this machine: the device command in a fresh process.

A fresh process, because the host's own memory, threads and imports would be measured otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from edgeprune.bench.device import Progress
from edgeprune.errors import DeviceError
from edgeprune.records import read_json, write_json
from edgeprune.records.benchmark import BenchRequest, DeviceAnswer


def run_here(request: BenchRequest, on_progress: Progress = lambda what, done, total: None) -> DeviceAnswer:
    """Have a request answered on this machine.

    Raises:
        DeviceError: The device half refused, with its own words, or died.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        write_json(asked, request)
        with (Path(folder) / "stderr").open("w+") as errors:
            command = [sys.executable, "-m", "edgeprune.bench", str(asked), str(answered)]
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
        if code == 2 and said:
            raise DeviceError(said)
        if code != 0:
            raise DeviceError(
                "The benchmark's process died.", where=request.engine,
                got=f"exit code {code}: {said.splitlines()[-1] if said else 'it said nothing'}",
                next_step="run `edgeprune doctor`; a process that is killed is often out of memory",
            )  # fmt: skip
        return read_json(answered, DeviceAnswer, DeviceError)
