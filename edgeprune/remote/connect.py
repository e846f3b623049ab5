"""Opening an SSH connection, and every way in which it can fail in words.

Rules:
- OpenSSH's configuration counts (~/.ssh/config: HostName, Port, User, IdentityFile, ProxyJump …), and so do its agent
  and its known_hosts; all of it is read by asyncssh. An address that names a user or a port wins over it.
- A host key is never trusted at first sight. An unknown one is refused with the command that shows it and asks; a
  changed one is refused; a configuration that switches the check off is refused too.
- Only keys: a device that asks for a password asks a person, and nobody may be there.

Sources: asyncssh 2.24, `connect` and `SSHClientConnectionOptions` (known_hosts None = not checked; where nothing is
configured, ~/.ssh/known_hosts; /etc/ssh/ssh_known_hosts only where GlobalKnownHostsFile names it); OpenSSH
ssh_config(5); sshd(8), 'SSH_KNOWN_HOSTS FILE FORMAT'.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import ConnectionLostError, DeviceError, ExitCode, missing_package
from edgeprune.records.address import DeviceAddress

if TYPE_CHECKING:
    import asyncssh

#: Seconds until a host that doesn't answer counts as unreachable: a Pi that is just booting answers within ten.
CONNECT_TIMEOUT_S = 15
#: A silent connection is asked for a sign of life after so many seconds …
KEEPALIVE_S = 10
#: … and given up after so many that weren't answered: half a minute without a network is a lost connection.
KEEPALIVES = 3


def import_asyncssh() -> Any:
    """asyncssh, or the error that names the extra."""
    try:
        import asyncssh
    except ImportError as error:
        raise missing_package("asyncssh", "ssh") from error
    return asyncssh


async def open_connection(address: DeviceAddress) -> asyncssh.SSHClientConnection:
    """Connect, check the host key, log in.

    Raises:
        DeviceError: Not reachable, host key unknown or changed, key not accepted, configuration that can't be used.
    """
    ssh = import_asyncssh()
    shown: list[Any] = []

    def client() -> Any:
        """asyncssh's own, that remembers a host key that isn't known; the answer stays no."""

        def validate_host_public_key(host: str, addr: str, port: int, key: Any) -> bool:
            shown.append((host, addr, port, key))
            return False

        made = ssh.SSHClient()
        made.validate_host_public_key = validate_host_public_key
        return made

    given = {"username": address.user or (), "port": address.port or ()}
    try:
        options = await ssh.SSHClientConnectionOptions.construct(config=(), host=address.host, **given)
        if options.known_hosts is None:
            raise DeviceError(
                "OpenSSH's configuration switches the check of host keys off.", where=address,
                expected="a known_hosts file", got="UserKnownHostsFile none",
                next_step="take that line out of ~/.ssh/config",
            )  # fmt: skip

        async def attempt(**algorithms: Any) -> Any:
            return await ssh.connect(
                address.host, **given, **algorithms, client_factory=client, connect_timeout=CONNECT_TIMEOUT_S,
                login_timeout=CONNECT_TIMEOUT_S, keepalive_interval=KEEPALIVE_S, keepalive_count_max=KEEPALIVES,
                password_auth=False, kbdint_auth=False,
            )  # fmt: skip

        try:
            return await attempt()
        except (ssh.KeyExchangeFailed, ssh.ConnectionLost, ConnectionResetError):
            # Only kinds of host keys that are known were asked for, and a device with a new key of another kind hangs
            # up on that. Asked for every kind, it shows its key, and the key can be refused as a changed one.
            if not _known_keys(ssh, options, options.host, "", options.port):
                raise
            return await attempt(server_host_key_algs="default")
    except ssh.HostKeyNotVerifiable as error:
        raise _host_key(ssh, address, options, shown, str(error)) from error
    except ssh.KeyExchangeFailed as error:
        raise _refuse(
            "The device and this machine have no algorithm of SSH in common.", address, error.reason
        ) from error
    except ssh.PermissionDenied as error:
        raise DeviceError(
            "The device doesn't accept the key.", where=address, got=error.reason,
            expected="a key of ~/.ssh, of the agent, or IdentityFile in ~/.ssh/config, that it knows",
            next_step=f"{address.ssh.replace('ssh ', 'ssh-copy-id ', 1)}, then {address.ssh} true",
            code=ExitCode.KEY_NOT_ACCEPTED,
        ) from error  # fmt: skip
    except (ssh.KeyImportError, ssh.KeyEncryptionError, ssh.ConfigParseError) as error:
        raise _refuse("OpenSSH's configuration or a key can't be read.", address, error, "look into ~/.ssh") from error
    except (TimeoutError, asyncio.TimeoutError) as error:  # two classes until Python 3.11
        raise _unreachable(address, f"no answer within {CONNECT_TIMEOUT_S} s") from error
    except (ssh.ConnectionLost, ConnectionResetError) as error:
        raise _refuse(
            "What answers there hangs up: it is no SSH server, or one that lets nobody in.", address, error,
            code=ExitCode.UNREACHABLE,
        ) from error  # fmt: skip
    except ssh.Error as error:
        raise _refuse("What answers there can't be talked to.", address, error) from error
    except socket.gaierror as error:
        raise DeviceError(
            "The host's name can't be resolved.", where=address, got=error.strerror or error,
            next_step="check the spelling, or give its IP address", code=ExitCode.UNREACHABLE,
        ) from error  # fmt: skip
    except OSError as error:
        if error.filename is not None:
            raise _refuse("A file of OpenSSH's configuration can't be read.", address, error) from error
        raise _unreachable(address, error.strerror or error) from error


def lost(address: DeviceAddress, what: str, error: object) -> ConnectionLostError:
    """The error for a connection that broke off.

    Args:
        what: What was being done, as 'while copying x.onnx'.
    """
    return ConnectionLostError(
        f"The connection broke off {what}.", where=address, got=error,
        next_step="run the same command again; what was copied is kept and goes on", code=ExitCode.LOST,
    )  # fmt: skip


def _host_key(ssh: Any, address: DeviceAddress, options: Any, shown: list[Any], reason: str) -> DeviceError:
    if not shown:
        return _refuse("The device's host key is revoked or not valid.", address, reason)
    host, addr, port, key = shown[-1]
    offered = f"{key.get_algorithm()} {key.get_fingerprint()}"
    known = _known_keys(ssh, options, host, addr, port)
    if known:
        return _changed(address, known, offered, host, port)
    return DeviceError(
        "The device's host key is not known here, so it could be anyone's.", where=address, got=offered,
        expected="a line for it in ~/.ssh/known_hosts",
        next_step=f"{address.ssh} true; compare the fingerprint with the device's own "
        "(there: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then answer yes",
        code=ExitCode.HOST_KEY_UNKNOWN,
    )  # fmt: skip


def _changed(address: DeviceAddress, known: list[Any], offered: str, host: str, port: int) -> DeviceError:
    entry = host if port == 22 else f"'[{host}]:{port}'"
    return DeviceError(
        "The device's host key has changed: it was set up anew, or something else answers in its place.",
        where=address, expected=", ".join(f"{k.get_algorithm()} {k.get_fingerprint()}" for k in known), got=offered,
        next_step=f"if you know that it was set up anew: ssh-keygen -R {entry}, then {address.ssh} true",
        code=ExitCode.HOST_KEY_CHANGED,
    )  # fmt: skip


def _known_keys(ssh: Any, options: Any, host: str, addr: str, port: int) -> list[Any]:
    """Keys that known_hosts has for a host: those that asyncssh compared with."""
    default = Path("~/.ssh/known_hosts").expanduser()
    files = options.known_hosts or ([str(default)] if default.is_file() else [])
    if not files:
        return []
    found = ssh.match_known_hosts(files, options.host_key_alias or host, addr, None if port == 22 else port)
    return list(found[0])


def _unreachable(address: DeviceAddress, got: object) -> DeviceError:
    return DeviceError(
        "The device can't be reached.", where=address, got=got,
        next_step=f"is it on, in this network, and does sshd run there? {address.ssh} true says more with -v",
        code=ExitCode.UNREACHABLE,
    )  # fmt: skip


def _refuse(
    what: str, address: DeviceAddress, got: object, next_step: str | None = None, code: ExitCode = ExitCode.USER
) -> DeviceError:
    advice = next_step or f"{address.ssh} -v true says more"
    return DeviceError(what, where=address, got=got, next_step=advice, code=code)
