"""Setting a device up: over a real sshd, with a wheel that is really built and a venv that pip really fills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeprune.errors import ExitCode
from edgeprune.remote.setup import LIMIT_BYTES
from edgeprune.remote.wheel import find_constraints, find_wheel
from tests.conftest import ROOT
from tests.disk import small_disk
from tests.remote.conftest import Board
from tests.remote.test_connect import refused
from tests.test_cli import edgeprune


def root(board: Board) -> Path:
    return board.home / ".local" / "share" / "edgeprune"


def left(board: Board) -> list[str]:
    """What a setup left on the device, its lock aside."""
    return sorted(p.name for p in root(board).glob("*")) if root(board).exists() else []


def working(board: Board, what: bytes = b"") -> list[int]:
    """Processes that were started with a path of the device's home, and with something else."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            if os.fsencode(board.home) in line and what in line:
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def script(board: Board, name: str, text: str) -> None:
    """A command of the device that isn't what it seems."""
    file = board.tools / name
    file.unlink(missing_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_setup_info_and_setup_again(board: Board) -> None:
    """The whole way, with pip and the registry: one setup, since it takes half a minute."""
    stale = root(board) / "venv-0.0.1-onnxruntime-abc.part"
    stale.mkdir(parents=True)
    old = root(board) / "venv-0.0.1-onnxruntime-abc"
    old.mkdir()
    done = edgeprune("device", "setup", board.address, "--agent", HOME=str(board.host))
    assert done.returncode == 0, done.stderr + done.stdout
    record = json.loads((root(board) / "current" / "installed.json").read_text())
    assert left(board) == [".lock", "current", record["name"]]
    assert record["install_bytes"] <= LIMIT_BYTES
    assert f"{record['install_bytes'] / 1e6:.1f} MB beside onnxruntime" in done.stdout

    # what is installed, as an independent pair of eyes sees it
    python = root(board) / "current" / "bin" / "python"
    names = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    listed = subprocess.run([python, "-c", names], capture_output=True, text=True, check=True, cwd="/").stdout.split()
    assert {"onnxruntime", "tuf", "paho-mqtt", "bsdiff4"} <= set(listed)
    assert not {"sqlalchemy", "SQLAlchemy", "fastapi", "torch", "ultralytics", "asyncssh", "pip", "openvino"} & set(
        listed
    )
    if sys.version_info >= (3, 11):
        pinned = dict(
            line.split(" ;")[0].split("==") for line in find_constraints().read_text().splitlines() if "==" in line
        )
        assert record["versions"]["numpy"] == pinned["numpy"]
    version = subprocess.run(
        [root(board) / "current" / "bin" / "edgeprune", "--version"], capture_output=True, text=True
    )
    assert version.stdout.strip() == record["versions"]["edgeprune"], version.stderr  # its interpreter's path is right

    agent = subprocess.run([python, "-I", "-m", "edgeprune.agent", "--help"], capture_output=True, text=True)
    assert "install-units" in agent.stdout, agent.stderr

    told = edgeprune("device", "info", board.address, "--json", HOME=str(board.host))
    assert told.returncode == 0, told.stderr
    info = json.loads(told.stdout)
    assert info["runtimes"] == {"onnxruntime": record["versions"]["onnxruntime"]}
    assert abs(info["clock_offset_s"]) <= info["clock_uncertainty_s"] + 1  # one machine has one clock
    table = edgeprune("device", "info", board.address, HOME=str(board.host))
    assert "free space" in table.stdout
    assert record["versions"]["onnxruntime"] in table.stdout

    # without being asked again for its agent: a device that has one keeps it
    before = python.stat().st_ino, os.readlink(root(board) / "current")
    again = edgeprune("device", "setup", board.address, HOME=str(board.host))
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert (python.stat().st_ino, os.readlink(root(board) / "current")) == before

    # a device whose clock was lost in a power cut still answers, with a warning
    script(board, "date", f"echo {time.time() - 6 * 31_557_600:.0f}.5")
    warned = edgeprune("device", "info", board.address, HOME=str(board.host))
    assert warned.returncode == 0
    assert "its clock is 6.0 years behind" in warned.stdout


def test_no_python3(board: Board) -> None:
    (board.tools / "python3").unlink()
    assert "There is no python3 on the device" in refused(board, "setup", board.address, code=ExitCode.NO_PYTHON)
    assert left(board) == []


def test_python_that_is_too_old(board: Board) -> None:
    script(board, "python3", "echo 3 8")
    said = refused(board, "setup", board.address, code=ExitCode.NO_PYTHON)
    assert "can't run edgeprune" in said
    assert "got: 3.8" in said


def test_python_that_does_not_start(board: Board) -> None:
    script(board, "python3", "echo 'Illegal instruction' >&2; exit 132")
    assert "doesn't start" in refused(board, "setup", board.address, code=ExitCode.NO_PYTHON)


def test_a_clock_that_is_years_off(board: Board) -> None:
    script(board, "date", f"echo {time.time() - 6 * 31_557_600:.0f}.5")
    said = refused(board, "setup", board.address, code=ExitCode.CLOCK)
    assert "clock is so far off" in said
    assert "6.0 years behind" in said
    assert left(board) == []


def test_too_little_space(board: Board) -> None:
    with small_disk(board.home / ".local", 8):
        assert "not enough space on the device" in refused(board, "setup", board.address, code=ExitCode.DISK_FULL)
        assert left(board) == []


def test_a_device_that_reaches_no_package_index(board: Board) -> None:
    """pip is sent to a port where nobody listens; what was begun is gone, and what was installed before is kept."""
    before = root(board) / "venv-0.0.1-onnxruntime-abc"
    before.mkdir(parents=True)
    (root(board) / "current").symlink_to(before.name)
    config = board.folder / "pip.conf"
    config.write_text("[global]\nindex-url = http://127.0.0.1:9/simple\nretries = 0\n")
    python = (board.tools / "python3").resolve()
    script(board, "python3", f'PIP_CONFIG_FILE={config} PIP_FIND_LINKS= PIP_RETRIES=0 exec {python} "$@"')
    said = refused(board, "setup", board.address)
    assert "pip can't install" in said
    assert left(board) == [".lock", "current", before.name]


def test_a_disk_that_fills_up_while_pip_works(board: Board) -> None:
    with small_disk(board.home / ".local", 650) as share:
        command = [sys.executable, "-m", "edgeprune", "device", "setup", str(board.address)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"HOME": str(board.host)}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wait_for(lambda: list(root(board).glob("venv-*.part/bin/pip")), "a venv that is being filled")
            with pytest.raises(OSError, match="No space left"):
                (share / "photos").write_bytes(bytes(700 << 20))
            said = process.communicate(timeout=120)[1]
            assert process.returncode == ExitCode.DISK_FULL
            assert "disk became full while installing" in said
            assert left(board) == [".lock"]
        finally:
            process.kill()
            process.wait()
            board.stop()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["killed", "ctrl-c"])
def test_a_setup_that_is_interrupted_leaves_nothing_half_installed(board: Board, number: int, code: int) -> None:
    """The host's command is ended while pip works over there: the device notices and cleans up."""
    command = [sys.executable, "-m", "edgeprune", "device", "setup", str(board.address)]
    environment = os.environ | {"HOME": str(board.host), "TMPDIR": str(board.folder)}  # what is killed can't tidy up
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(root(board).glob("venv-*.part/bin/pip")), "a venv that is being filled")
        assert working(board)
    finally:
        process.send_signal(number)
        assert process.wait() == code
    wait_for(lambda: left(board) == [".lock"], "the end of it")
    wait_for(lambda: not working(board), "the end of every process of it")


def test_two_setups_at_once(board: Board) -> None:
    import fcntl

    root(board).mkdir(parents=True)
    with open(root(board) / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another setup is running" in refused(board, "setup", board.address)
        assert not list(root(board).glob("venv-*"))


def test_an_unknown_runtime(board: Board) -> None:
    assert "no such runtime" in refused(board, "setup", board.address, "--runtime", "tflite")


def test_a_wheel_that_is_not_ours(board: Board, tmp_path: Path) -> None:
    assert "no such wheel" in refused(board, "setup", board.address, "--wheel", tmp_path / "x.whl")
    other = tmp_path / "numpy-2.0-py3-none-any.whl"
    other.write_bytes(b"PK")
    assert "not the wheel of this edgeprune" in refused(board, "setup", board.address, "--wheel", other)


def test_the_same_sources_make_the_same_wheel(tmp_path: Path) -> None:
    wheels = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        wheels.append(find_wheel(None, tmp_path / name).read_bytes())
    assert wheels[0] == wheels[1]


def wait_for(what, name: str) -> None:  # type: ignore[no-untyped-def]
    for _ in range(1200):
        if what():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {name}")
