"""`edgeprune fleet …` as processes that listen, and end when they are told to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT


@contextmanager
def listening(*arguments: object, log: Path, **environment: str) -> Iterator[str]:
    """A process that serves; yields the address that it says. It must end without an error when it is told to."""
    with open(log, "w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeprune", "fleet", *map(str, arguments)], stdout=subprocess.PIPE, stderr=errors,
            text=True, cwd=ROOT, env=os.environ | environment,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http"), log.read_text()
            yield address.rstrip("/")
        finally:
            process.terminate()
            code = process.wait(120)
            if process.stdout is not None:
                process.stdout.close()
        assert code == 0
        assert "Traceback" not in log.read_text(), log.read_text()
