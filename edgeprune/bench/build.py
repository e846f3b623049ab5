"""The device half's answer to a build: the kit's own build_engine.py, as a process, with its exit code and its words.

Rules:
- It is the script that lies in the kit, run as anyone would run it by hand, so that what a fleet's boards do is what
  was tried here. It keeps its cache of engines under the user's ~/.cache; what it made is copied beside the answer.
- A refusal by a gate is an answer, not an accident: its exit code and its words go to the host.
- The script dies with this process, whatever ends it: a board that nobody waits for must not build on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from edgeprune.bench.device import Progress
from edgeprune.errors import DeviceError
from edgeprune.kit.build_engine import read_board
from edgeprune.machine import die_with_parent
from edgeprune.records import BoardEngine, read_json
from edgeprune.records.request import BuildAnswer, BuildRequest

SCRIPT = "build_engine.py"


def build(request: BuildRequest, folder: Path, answer: Path, on_progress: Progress) -> BuildAnswer:
    """Build an engine of a kit; it and its records go beside the answer."""
    kit = folder / request.kit
    command = [sys.executable, "-I", "-u", str(kit / SCRIPT), "--precision", request.precision, "--out", str(answer)]
    command += [] if request.dla is None else ["--dla", str(request.dla)]
    command += [] if read_board(Path("/"))["l4t"] else ["--elsewhere"]
    said: list[str] = []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True,
            preexec_fn=die_with_parent,  # one thread, and nothing but a system call
        )  # fmt: skip
        try:
            assert process.stdout is not None
            on_progress(f"building {request.precision}: minutes, without a word", 0, 1)
            for line in process.stdout:
                said.append(line.rstrip())
                on_progress(said[-1], 0, 1)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        complaint = errors.read().strip()
    if code:
        return BuildAnswer(exit_code=code, said=complaint or f"exit code {code}, without a word")
    on_progress("built", 1, 1)
    made = read_json(answer / "engine.json", BoardEngine, DeviceError)
    return BuildAnswer(exit_code=0, said="\n".join(said), engine=made)
