"""A device over SSH: `async with connect(address) as device`, then run, put, get.

Rules:
- A command is a list of words, never a line for a shell; its output is text, and a non-zero exit code is an answer.
- A command doesn't outlive the call: where the call is cancelled, runs out of time or loses its connection, the
  remote process and all of its group are ended (TERM, after five seconds KILL).
- A copy that loses its connection connects again and goes on; copy.py has the rules of copying.

Why a wrapper: sshd leaves a command without a terminal running when its channel closes, and sends no signals to one of
a user who logged in as root (OpenSSH 9.2, session.c: 'session signalling requires privilege separation'). So the
command gets a session of its own, and a watcher reads the channel's input, which is never written to: its end is the
channel's end.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import ConnectionLostError, DeviceError
from edgeprune.records.address import DeviceAddress
from edgeprune.remote.connect import import_asyncssh, lost, open_connection
from edgeprune.remote.copy import Copied, Link, Progress, get, put

if TYPE_CHECKING:
    import asyncssh

#: Connections that one copy may use up.
ATTEMPTS = 4
#: Seconds before the second one; doubles from there. A reboot of a network switch is over by the last.
PAUSE_S = 1.0

#: fd 3 is the channel's input; in the background, a shell's own input would be /dev/null.
_WRAPPER = """exec 3<&0
setsid "$@" </dev/null 3<&- & job=$!
{ read -r _ <&3; kill -TERM -$job; sleep 5; kill -KILL -$job; } >/dev/null 2>&1 & watch=$!
wait $job; code=$?
kill $watch 2>/dev/null
exit $code"""


#: Told a line that a command wrote.
Heard = Callable[[str], None]


@dataclass(frozen=True)
class Finished:
    """A command that has ended.

    Attributes:
        stdout, stderr: What it wrote, as text; what isn't UTF-8 is replaced.
        exit_code: 0 to 255; 128 + N where signal N ended it, 127 where there is no such command.
    """

    stdout: str
    stderr: str
    exit_code: int


@asynccontextmanager
async def connect(address: DeviceAddress) -> AsyncIterator[Device]:
    """A connected device; commands of a block that is left are ended.

    Raises:
        DeviceError: It can't be reached, isn't who it should be, or doesn't let us in.
    """
    device = Device(address, await open_connection(address))
    try:
        yield device
    finally:
        await device.close()


class Device:
    """A device that is connected. Made by `connect`."""

    def __init__(self, address: DeviceAddress, connection: asyncssh.SSHClientConnection) -> None:
        self.address = address
        self._connection = connection

    async def run(
        self,
        command: Sequence[str],
        *,
        timeout_s: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_line: Heard | None = None,
    ) -> Finished:
        """Run a command in the login folder and wait for its end.

        Args:
            command: The program, found on the device's PATH, and its arguments.
            timeout_s: Seconds after which it is ended; none = it may take as long as it likes.
            environment: Variables to add.
            on_line: Told each line of its output as it comes.

        Raises:
            ConnectionLostError: The connection broke off; the command is ended once the device notices.
            DeviceError: It took too long.
        """
        words = [*command] if not environment else ["env", *(f"{k}={v}" for k, v in environment.items()), *command]
        line = shlex.join(["sh", "-c", _WRAPPER, "sh", *words])
        what = f"while '{_short(command)}' ran"
        ssh = import_asyncssh()
        try:
            process = await self._connection.create_process(line, encoding="utf-8", errors="replace")
        except (ssh.Error, OSError) as error:
            raise lost(self.address, what, error) from error
        try:
            stdout, stderr = await asyncio.wait_for(_output(process, on_line), timeout_s)
        except (TimeoutError, asyncio.TimeoutError) as error:  # two classes until Python 3.11
            raise DeviceError(
                "The command took too long and was ended.", where=f"{self.address}: {_short(command)}",
                expected=f"its end within {timeout_s:g} s",
            ) from error  # fmt: skip
        except (ssh.Error, OSError) as error:
            raise lost(self.address, what, error) from error
        finally:
            process.close()
        if process.returncode is None:
            raise lost(self.address, what, "the channel was closed without an exit code")
        return Finished(str(stdout), str(stderr), process.returncode)

    async def put(self, source: Path, destination: str, progress: Progress | None = None) -> Copied:
        """Copy a file or a folder to the device, replacing what is there once all of it has arrived.

        Args:
            destination: Path there, relative to the login folder or absolute; its parents are made.
            progress: Called with bytes done and bytes in all.

        Raises:
            ConnectionLostError: The connection broke off and couldn't be opened again.
            DeviceError: No such file, no space, no permission, or it arrived differently.
        """
        return await self._persist(lambda link: put(link, source, destination, progress), f"while copying {source}")

    async def get(self, source: str, destination: Path, progress: Progress | None = None) -> Copied:
        """Copy a file or a folder from the device; as `put`, the other way round."""
        return await self._persist(lambda link: get(link, source, destination, progress), f"while copying {source}")

    async def close(self) -> None:
        """End the connection and the commands that run over it."""
        self._connection.close()
        await self._connection.wait_closed()

    async def _sftp(self) -> asyncssh.SFTPClient:
        ssh = import_asyncssh()
        try:
            return await self._connection.start_sftp_client()
        except (ssh.SFTPError, ssh.ChannelOpenError) as error:
            await self.run(["true"])  # a connection that is lost says so here
            raise DeviceError(
                "The device offers no SFTP, which copying needs.", where=self.address, got=error,
                next_step="install OpenSSH's sftp-server there (openssh-sftp-server), and let sshd_config name it",
            ) from error  # fmt: skip

    async def _persist(self, copy: Any, what: str) -> Copied:
        ssh = import_asyncssh()
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_S * 2 ** (attempt - 1))
                try:
                    self._connection = await open_connection(self.address)
                except DeviceError as error:
                    problem: Exception = error
                    continue
            try:
                async with await self._sftp() as sftp:
                    return await copy(Link(self.address, sftp, self.run))
            except (ssh.ConnectionLost, ssh.SFTPConnectionLost, ssh.SFTPNoConnection, ConnectionLostError) as error:
                problem = error
            except (ssh.ChannelOpenError, ssh.DisconnectError, BrokenPipeError, ConnectionResetError) as error:
                problem = error
        raise lost(self.address, what, problem) from problem


async def _output(process: Any, on_line: Heard | None) -> tuple[str, str]:
    """Standard output and standard error of a process, to its end."""
    if on_line is None:
        stdout, stderr = await process.communicate()
        return str(stdout), str(stderr)
    errors, lines = asyncio.ensure_future(process.stderr.read()), []
    try:
        async for line in process.stdout:
            lines.append(line)
            on_line(line.rstrip("\n"))
        await process.wait_closed()
        return "".join(lines), str(await errors)
    finally:
        errors.cancel()


def _short(command: Sequence[str]) -> str:
    text = shlex.join(command)
    return text if len(text) <= 60 else f"{text[:57]}…"
