"""DeviceAddress: where a device answers, as a target writes it.

Rules:
- `local`, or `ssh://[user@]host[:port]`. The host may be an alias of ~/.ssh/config; user and port left out are its.
- What an address can't carry is refused, never dropped: a password (use a key), a path, a query. A host or user that
  begins with '-' would read as an option of the ssh that next steps name.

Source: RFC 3986 section 3.2 (authority; an IPv6 address stands in brackets); OpenSSH ssh(1), 'ssh://[user@]hostname[:port]'.
"""

from __future__ import annotations

import re

from pydantic import Field

from edgeprune.errors import DeviceError
from edgeprune.records.base import Record

#: The address of this machine.
LOCAL = "local"
#: What an address looks like, for errors.
FORM = "local, or ssh://user@host or ssh://user@host:port"

_AUTHORITY = re.compile(r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:@]*)(?::(?P<port>.*))?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")


class DeviceAddress(Record):
    """A device that answers over SSH."""

    user: str | None = None
    """Who to log in as; none = what OpenSSH's configuration says, else the local user."""
    host: str
    """Name, alias of ~/.ssh/config, IPv4 or IPv6 address without brackets."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """TCP port; none = what OpenSSH's configuration says, else 22."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{f'{self.user}@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    @property
    def ssh(self) -> str:
        """The ssh command that goes there."""
        return f"ssh {f'-p {self.port} ' if self.port else ''}{f'{self.user}@' if self.user else ''}{self.host}"


class NotAnAddressError(ValueError):
    """Why a text is no address; `shown` is the text without a password."""

    def __init__(self, shown: str, why: str) -> None:
        super().__init__(why)
        self.shown = shown


def parse_address(text: str) -> DeviceAddress | None:
    """Read an address; None is this machine.

    Raises:
        DeviceError: It isn't one; says what about it.
    """
    try:
        return read_address(text)
    except NotAnAddressError as error:
        raise DeviceError(f"This is not a device's address: {error}.", expected=FORM, got=error.shown) from error


def read_address(text: str) -> DeviceAddress | None:
    """The same for a record's field.

    Raises:
        NotAnAddressError: It isn't one.
    """
    if text == LOCAL:
        return None
    name, colon, _ = text.rpartition("@")[0].removeprefix("ssh://").partition(":")
    if colon:  # looked for first: whatever else is wrong, a password doesn't get into a message
        raise NotAnAddressError(f"ssh://{name}:…@…", "it holds a password; log in with a key")
    scheme, separator, rest = text.partition("://")
    if scheme != "ssh" or not separator:
        raise NotAnAddressError(text, "it doesn't begin with ssh://")
    rest = rest.removesuffix("/")
    if any(mark in rest for mark in "/?#"):
        raise NotAnAddressError(text, "it goes on after the host; an address names a machine, not a folder")
    if rest.count(":") > 1 and "[" not in rest:
        raise NotAnAddressError(text, "an IPv6 address stands in brackets, as [::1]")
    found = _AUTHORITY.fullmatch(rest)
    if found is None:
        raise NotAnAddressError(text, "what follows ssh:// is not user@host:port")
    user, host, port = found["user"], found["host"], found["port"]
    if user is not None and not _NAME.fullmatch(user):
        raise NotAnAddressError(text, f"'{user}' is no user name")
    bracketed = host.startswith("[")
    host = host.strip("[]")
    if not (_IPV6 if bracketed else _NAME).fullmatch(host):
        raise NotAnAddressError(text, f"'{host}' is no host name" if host else "it names no host")
    if port is not None and not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise NotAnAddressError(text, f"'{port}' is no port (1 to 65535)")
    return DeviceAddress(user=user, host=host, port=int(port) if port else None)
