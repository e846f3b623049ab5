"""Every way in which a device can't be had: its own sentence and exit code, and no traceback."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.errors import DeviceError, ExitCode
from edgeprune.records.address import DeviceAddress
from edgeprune.remote import connect
from tests.remote.conftest import Board, keygen
from tests.runtime.test_device_rooms import BLOCK
from tests.test_cli import edgeprune


def refused(board: Board, *arguments: object, code: ExitCode = ExitCode.USER) -> str:
    done = edgeprune("device", *(arguments or ("info", board.address)), HOME=str(board.host))
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_unknown_host_key_is_refused_with_the_command_that_adds_it(board: Board) -> None:
    known = board.host / ".ssh" / "known_hosts"
    known.unlink()
    said = refused(board, code=ExitCode.HOST_KEY_UNKNOWN)
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", board.folder / "host_key.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert "host key is not known" in said
    assert fingerprint in said
    assert f"ssh -p {board.port} {getpass.getuser()}@127.0.0.1" in said
    assert not known.exists()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_changed_host_key_is_refused(board: Board, kind: str) -> None:
    """Another key of the same kind, and one of another kind: the device was set up anew, or is another one."""
    board.stop()
    keygen(board.folder / "other_key", kind)
    board.start("other_key")
    said = refused(board, code=ExitCode.HOST_KEY_CHANGED)
    assert "host key has changed" in said
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in said


def test_a_configuration_that_checks_no_host_key_is_refused(board: Board) -> None:
    (board.host / ".ssh" / "config").write_text("Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n")
    assert "switches the check of host keys off" in refused(board)


def test_a_configuration_that_cannot_be_read(board: Board) -> None:
    (board.host / ".ssh" / "config").write_text("Host *\n  Port many\n")
    assert "can't be read" in refused(board)


def test_a_key_that_the_device_does_not_know(board: Board) -> None:
    (board.host / ".ssh" / "id_ed25519").unlink()
    keygen(board.host / ".ssh" / "id_ed25519")
    said = refused(board, code=ExitCode.KEY_NOT_ACCEPTED)
    assert "doesn't accept the key" in said
    assert f"ssh-copy-id -p {board.port}" in said


def test_no_key_at_all(board: Board) -> None:
    (board.host / ".ssh" / "id_ed25519").unlink()
    assert "doesn't accept the key" in refused(board, code=ExitCode.KEY_NOT_ACCEPTED)


def test_nobody_listens(board: Board) -> None:
    board.stop()
    assert "can't be reached" in refused(board, code=ExitCode.UNREACHABLE)


def test_what_listens_is_no_ssh_server(board: Board) -> None:
    board.stop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        board.port = server.getsockname()[1]
        code = (
            "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); c = s.accept()[0]; "
            "c.recv(999); c.sendall(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n' * 500); c.shutdown(1); c.recv(999)"
        )
        os.set_inheritable(server.fileno(), True)
        process = subprocess.Popen([sys.executable, "-c", code, str(server.fileno())], close_fds=False)
        try:
            assert "no SSH server" in refused(board, code=ExitCode.UNREACHABLE)
        finally:
            process.kill()
            process.wait()


def test_what_listens_says_nothing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers, as a board that hangs: with a second's patience instead of fifteen."""
    monkeypatch.setattr(connect, "CONNECT_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(DeviceError) as caught:
        asyncio.run(connect.open_connection(DeviceAddress(host="127.0.0.1", port=server.getsockname()[1])))
    assert "can't be reached" in str(caught.value)
    assert "no answer within 1 s" in str(caught.value)


def test_a_name_that_does_not_resolve(board: Board) -> None:
    said = refused(board, "info", "ssh://me@no-such-host.invalid", code=ExitCode.UNREACHABLE)
    assert "name can't be resolved" in said


def test_openssh_configuration_says_where_an_alias_is(board: Board) -> None:
    """Host, port, user and key come from ~/.ssh/config; that they are right shows in what is missing there."""
    (board.host / ".ssh" / "id_ed25519").rename(board.host / "elsewhere")
    (board.host / ".ssh" / "config").write_text(
        f"Host pi\n  HostName 127.0.0.1\n  Port {board.port}\n  User {getpass.getuser()}\n"
        f"  IdentityFile {board.host / 'elsewhere'}\n"
    )
    said = refused(board, "info", "ssh://pi", code=ExitCode.NOT_SET_UP)
    assert "not installed there" in said
    assert "edgeprune device setup ssh://pi" in said


def test_a_jump_host_is_gone_through(board: Board) -> None:
    """ProxyJump over the same sshd: it sees the second connection come from itself."""
    (board.host / ".ssh" / "config").write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {board.port}\n"
        f"Host pi\n  HostName 127.0.0.1\n  Port {board.port}\n  ProxyJump jump\n"
    )
    assert "not installed there" in refused(board, "info", "ssh://pi", code=ExitCode.NOT_SET_UP)
    assert board.log().count("Accepted publickey") == 2


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("pi@board", "doesn't begin with ssh://"),
        ("ssh://", "names no host"),
        ("ssh://pi@board:0", "'0' is no port"),
        ("ssh://pi@board/home", "not a folder"),
    ],
)
def test_what_is_no_address(address: str, what: str) -> None:
    done = edgeprune("device", "info", address)
    assert done.returncode == 2
    assert what in done.stderr


def test_without_asyncssh_its_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "asyncssh.py").write_text("raise ImportError('not here')\n")
    done = edgeprune("device", "info", "ssh://pi@board", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'edgeprune[ssh]'" in done.stderr


def test_the_local_machine_needs_no_setup() -> None:
    done = edgeprune("device", "setup", "local")
    assert done.returncode == 2
    assert "set up already" in done.stderr


def test_remote_rooms_import_without_torch() -> None:
    rooms = ("connect", "copy", "device", "install", "setup", "wheel")
    code = BLOCK.format(blocked={"torch", "torchvision", "ultralytics"}) + "".join(
        f"importlib.import_module('edgeprune.remote.{room}')\n" for room in rooms
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_device_without_sftp_says_so(make_board: Callable[[], Board], tmp_path: Path) -> None:
    board = make_board()
    (board.folder / "sftp").unlink()
    board.start()
    assert "SFTP" in refused(board, "setup", board.address)
