"""An emulated Raspberry Pi as a device: its own sshd, its own users, its own files; and a host that knows its key."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeprune.records.address import DeviceAddress
from edgeprune.remote.device import Device, connect
from tests.pi.userland import CannotBeMadeError, userland
from tests.remote.conftest import PASSED, descendants, keygen

#: As each board says of itself; the processor as QEMU names it, its main ID register as Linux shows it.
BOARDS = {
    "pi5": {
        "cpu": "cortex-a76", "midr": "414fd0b1", "model": "Raspberry Pi 5 Model B Rev 1.0",
        "compatible": ["raspberrypi,5-model-b", "brcm,bcm2712"],
    },
    "pi4": {
        "cpu": "cortex-a72", "midr": "410fd083", "model": "Raspberry Pi 4 Model B Rev 1.5",
        "compatible": ["raspberrypi,4-model-b", "brcm,bcm2711"],
    },
}  # fmt: skip
OLDEST_KERNEL = (6, 7)
START_S = 60


@dataclass
class Pi:
    """A board that answers.

    Attributes:
        kind: pi4 or pi5.
        host: HOME of the host, with the .ssh/ that knows it.
    """

    kind: str
    host: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> DeviceAddress:
        return DeviceAddress(user="pi", host="127.0.0.1", port=self.port)

    def on(self, what: Callable[[Device], Awaitable[Any]]) -> Any:
        """Do something with it over a connection of its own."""

        async def run() -> Any:
            async with connect(self.address) as device:
                return await what(device)

        return asyncio.run(run())

    def output(self, *command: str) -> str:
        """What a command writes that has to work."""
        done = self.on(lambda device: device.run(list(command)))
        assert done.exit_code == 0, done.stderr
        return str(done.stdout)

    def stop(self) -> None:
        """Pull its plug: the namespace's first process is killed, and with it all of them, before its parent ends."""
        if self.process.poll() is None:
            for child in descendants(self.process.pid)[:1] or [self.process.pid]:
                os.kill(child, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def emulation() -> Path:
    """The userland's folder; where there is none to be had, all of this is left out."""
    if platform.system() != "Linux" or tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < OLDEST_KERNEL:
        pytest.skip(f"left out: Linux 6.7 or later is needed, this is {platform.system()} {platform.release()}")
    if os.geteuid() != 0:
        pytest.skip("left out: only root can map users for an sshd: sudo make test-pi")
    try:
        return userland()
    except CannotBeMadeError as error:
        pytest.skip(f"left out: {error}")


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """/home/pi, which outlives a board."""
    folder = tmp_path_factory.mktemp("card")
    os.chown(folder, 1000, 1000)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", params=list(BOARDS))
def pi(
    request: pytest.FixtureRequest, emulation: Path, card: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pi]:
    """Each board, one after the other: the cores are few."""
    kind = str(request.param)
    folder = tmp_path_factory.mktemp(kind)
    board = start(kind, emulation, card, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(board.host))
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        try:
            yield board
        finally:
            board.stop()


def start(kind: str, emulation: Path, card: Path, folder: Path) -> Pi:
    """Boot a board. What it can't have here leaves the test out; an sshd that doesn't answer fails it."""
    host, memory, port = folder / "host", folder / "memory", free_port()
    (host / ".ssh").mkdir(parents=True)
    memory.mkdir()
    keygen(folder / "host_key")
    keygen(host / ".ssh" / "id_ed25519")
    algorithm, public = (folder / "host_key.pub").read_text().split()[:2]
    (host / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {algorithm} {public}\n")
    variables, pip, shared = reaching_the_registry()
    variables["QEMU_CPU"] = str(BOARDS[kind]["cpu"])  # sshd gives a session none of its own environment
    quoted = " ".join(f'"{name}={value}"' for name, value in variables.items())
    settings = BOARDS[kind] | {
        "root": str(emulation / "root"), "qemu": str(emulation / "qemu-aarch64"), "memory": str(memory),
        "home": str(card), "shared": ["/etc/resolv.conf", *shared],
        "files": {
            "etc/pip.conf": pip,
            "etc/ssh/ssh_host_ed25519_key": (folder / "host_key").read_text(),
            "etc/ssh/client.pub": (host / ".ssh" / "id_ed25519.pub").read_text(),
            "etc/ssh/sshd_config": (
                f"ListenAddress 127.0.0.1:{port}\nHostKey /etc/ssh/ssh_host_ed25519_key\nPidFile none\n"
                "AuthorizedKeysFile /etc/ssh/client.pub\nUsePAM no\nPasswordAuthentication no\nLogLevel VERBOSE\n"
                f"KbdInteractiveAuthentication no\nSubsystem sftp /usr/lib/openssh/sftp-server\nSetEnv {quoted}\n"
            ),
        },
    }  # fmt: skip
    log = folder / "sshd.log"
    command = [sys.executable, "-I", str(Path(__file__).with_name("enter.py")), json.dumps(settings)]
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*command, "/usr/sbin/sshd", "-D", "-e"], stdin=subprocess.DEVNULL, stdout=written, stderr=written,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
    board = Pi(kind, host, port, process)
    try:
        wait_for_sshd(board, log)
    except BaseException:
        board.stop()
        raise
    return board


def wait_for_sshd(board: Pi, log: Path) -> None:
    for _ in range(START_S * 20):
        if board.process.poll() is not None:
            said = log.read_text(errors="replace").strip()
            if "can't be" in said.splitlines()[-1]:
                pytest.skip(f"left out: {said}")
            raise AssertionError(said)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", board.port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text(errors="replace"))


def reaching_the_registry() -> tuple[dict[str, str], str, list[str]]:
    """How pip reaches the registry from here: environment, pip.conf, and the host's files that these two name."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    options: dict[str, dict[str, str]] = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.partition(".")
        if option and not section.startswith(":"):  # ':env:' are the variables
            options.setdefault(section, {})[option] = str(ast.literal_eval(value)).replace("\n", "\n  ")
    pip = "".join(
        f"[{section}]\n" + "".join(f"{option} = {value}\n" for option, value in own.items())
        for section, own in options.items()
    )
    named: set[Path] = set()
    for text in (pip, *variables.values()):
        for scheme, path in re.findall(r"(?<![\w/:])(file://)?(/[\w.+/-]+)", text):
            named.add(Path(path).parent if scheme else Path(path))  # an index in a folder points at its neighbours
    there = sorted(path for path in named if path.exists() and path != Path("/"))
    return variables, pip, [str(path) for path in there if not any(p in there for p in path.parents)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
