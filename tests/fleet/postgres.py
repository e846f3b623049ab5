"""A PostgreSQL of the tests' own: Debian's programs, a folder that goes with it, loopback or not even that."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/usr/lib/postgresql")
#: Debian's newest.
BIN = max(ROOT.glob("*/bin"), key=lambda folder: int(folder.parent.name), default=ROOT / "0" / "bin")


def missing() -> str | None:
    """Why none can be started here; None: it can."""
    if not (BIN / "postgres").is_file():
        return f"no PostgreSQL under {ROOT} (apt-get install postgresql)"
    if os.geteuid() == 0 and not shutil.which("runuser"):
        return "PostgreSQL doesn't run as root, and there is no runuser"
    return None


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a server on a Unix socket, which lives as long as this does."""
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-pg-", dir="/tmp"))  # a socket's path has 107 bytes at most
    root = os.geteuid() == 0
    user = "postgres" if root else os.environ.get("USER", "postgres")
    if root:
        shutil.chown(folder, "postgres")

    def run(*command: str) -> None:
        become = ["runuser", "-u", "postgres", "--"] if root else []
        subprocess.run([*become, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")

    try:
        data = folder / "data"
        run(str(BIN / "initdb"), "-D", str(data), "-U", user, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        run(str(BIN / "pg_ctl"), "-D", str(data), "-w", "-t", "300", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://{user}@/postgres?host={folder}"
        finally:
            run(str(BIN / "pg_ctl"), "-D", str(data), "-w", "-t", "300", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
