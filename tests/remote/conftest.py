"""A device: a real sshd on loopback with its own keys, its own home and its own PATH; and a host that knows it."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgeprune.records.address import DeviceAddress

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
SFTP_SERVER = next((path for path in SFTP_SERVERS if Path(path).is_file()), "")
#: What a small Linux has besides python3; `python3` is left out so that a device without it can be made.
TOOLS = (
    "sh", "env", "cat", "rm", "mv", "mkdir", "ls", "head", "tail", "sha256sum", "sync", "setsid", "sleep", "date", "df",
    "test", "true", "printf", "kill", "touch", "uname",
)  # fmt: skip
#: How pip reaches the registry from here; a session of sshd starts with an environment of its own.
PASSED = ("PIP_", "SSL_CERT", "REQUESTS_CA", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "no_proxy")


@dataclass
class Board:
    """The device of a test, and the host's ~/.ssh.

    Attributes:
        home: HOME on the device.
        tools: The only folder on its PATH.
        host: HOME of the host, with .ssh/.
        ip: Where its sshd listens.
        inside: What starts a process on it: of another network namespace, `ip netns exec NAME`.
    """

    folder: Path
    home: Path
    tools: Path
    host: Path
    port: int
    ip: str = "127.0.0.1"
    inside: tuple[str, ...] = ()
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> DeviceAddress:
        return DeviceAddress(user=getpass.getuser(), host=self.ip, port=self.port)

    def log(self, of: str = "sshd") -> str:
        return (self.folder / f"{of}.log").read_text(errors="replace")

    def trust(self, key: str = "host_key") -> None:
        """Let the host know a key as the device's."""
        kind, public = (self.folder / f"{key}.pub").read_text().split()[:2]
        (self.host / ".ssh" / "known_hosts").write_text(f"[{self.ip}]:{self.port} {kind} {public}\n")

    def start(self, key: str = "host_key") -> None:
        environment = {k: v for k, v in os.environ.items() if k.startswith(PASSED)} | {
            "HOME": str(self.home), "PATH": str(self.tools),
        }  # fmt: skip
        own = Path("~/.config/pip/pip.conf").expanduser()
        if own.is_file():
            environment.setdefault("PIP_CONFIG_FILE", str(own))
        quoted = " ".join(f'"{name}={value}"' for name, value in environment.items())
        settings = (
            f"ListenAddress {self.ip}:{self.port}\nHostKey {self.folder / key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder / 'client.pub'}\nStrictModes no\nUsePAM no\nLogLevel VERBOSE\n"
            f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp {self.folder / 'sftp'}\n"
            f"SetEnv {quoted}\n"
        )
        (self.folder / "sshd_config").write_text(settings)
        with open(self.folder / "sshd.log", "ab") as log:
            command = [*self.inside, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log))
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((self.ip, self.port)) == 0:
                    return
            assert self.processes[-1].poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(self.log())

    def stop(self) -> None:
        """End sshd and every session of it."""
        for process in self.processes:
            self.cut(process)
            process.terminate()
            process.wait()
        self.processes.clear()

    def cut(self, process: subprocess.Popen[bytes] | None = None) -> None:
        """Kill every connection there is, as a pulled cable would end it; sshd itself goes on."""
        for child in reversed(descendants((process or self.processes[-1]).pid)):
            try:
                if b"sshd" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue


def descendants(parent: int) -> list[int]:
    """Processes below one, parents first."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid for child in children for pid in (int(child), *descendants(int(child)))]


def keygen(file: Path, kind: str = "ed25519") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file], check=True)


@pytest.fixture
def make_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Board]]:
    yield from boards(tmp_path, monkeypatch)


def boards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Board]]:
    """What makes devices in a folder; they end with it."""
    if not Path(SSHD).is_file() or not SFTP_SERVER or not shutil.which("ssh-keygen"):
        pytest.skip("left out: no sshd here (Debian: apt-get install openssh-server)")
    made: list[Board] = []

    def make() -> Board:
        folder = tmp_path / "board"
        board = Board(folder, folder / "home", folder / "bin", tmp_path / "host", _free_port())
        for path in (board.home, board.tools, board.host / ".ssh"):
            path.mkdir(parents=True)
        for tool in TOOLS:
            found = shutil.which(tool, path="/usr/bin:/bin:/usr/sbin:/sbin")
            if found:
                (board.tools / tool).symlink_to(found)
        (board.tools / "python3").symlink_to(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
        sftp = folder / "sftp"  # writes its log where the test can read it: what it was really sent
        sftp.write_text(f"#!/bin/sh\nexec {SFTP_SERVER} -e -l VERBOSE 2>> {folder / 'sftp.log'}\n")
        sftp.chmod(0o755)
        keygen(folder / "host_key")
        keygen(folder / "client")
        shutil.copy(folder / "client", board.host / ".ssh" / "id_ed25519")
        if os.geteuid() == 0:  # sshd's privilege separation folder, which Debian makes at boot
            Path("/run/sshd").mkdir(exist_ok=True)
        board.trust()
        monkeypatch.setenv("HOME", str(board.host))
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        made.append(board)
        return board

    yield make
    for board in made:
        board.stop()


@pytest.fixture
def board(make_board: Callable[[], Board]) -> Board:
    board = make_board()
    board.start()
    return board


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
