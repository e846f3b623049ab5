"""What a device proves with who it is: one token, its bearer token over HTTP and its password at the broker.

Rules:
- A token is 32 random bytes, shown once. Only its SHA-256 is kept: what can't be guessed needs no slow hash.
- mosquitto's password file has one line a device, `NAME:$7$ITERATIONS$SALT$HASH`: PBKDF2 with SHA-512, 12 bytes of salt
  and 64 of hash in base64. mosquitto reads it again at SIGHUP.
- The file keeps its owner and mode; a new one is for its owner alone. Lines of others are left as they are.

Sources: mosquitto 2.0.11, mosquitto_passwd(1) and lib/password_mosq ('$7$', PW_DEFAULT_ITERATIONS 101); RFC 6750
(bearer tokens).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from edgeprune.errors import UpdateError
from edgeprune.records.files import no_space, sync_folder

#: As mosquitto_passwd does it; the token itself has 256 bits.
ITERATIONS = 101


def new_token() -> str:
    return secrets.token_urlsafe(32)


def token_sha256(token: str) -> str:
    """Hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_token(token: str, sha256: str) -> bool:
    """Whether a token is the one of this hash, in constant time."""
    return hmac.compare_digest(token_sha256(token), sha256)


def mosquitto_line(device: str, token: str) -> str:
    """A line of mosquitto's password file."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", token.encode(), salt, ITERATIONS)
    return f"{device}:$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def write_passwords(file: Path, tokens: Mapping[str, str], gone: Collection[str] = ()) -> None:
    """Set devices' passwords in mosquitto's file, and take out those of others.

    Raises:
        UpdateError: The file can't be read.
        DeviceError: … or written.
    """
    try:
        old = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as problem:
        raise UpdateError("mosquitto's password file can't be read.", where=file, got=str(problem)) from problem
    kept = [line for line in old if line.partition(":")[0] not in {*tokens, *gone}]
    lines = [*kept, *(mosquitto_line(device, token) for device, token in tokens.items())]
    with no_space(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        part.unlink(missing_ok=True)
        try:
            _write(part, lines, file.stat() if file.exists() else None)
            os.replace(part, file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(file.parent)


def _write(part: Path, lines: Sequence[str], like: os.stat_result | None) -> None:
    """Write a secret file, with another's owner and mode."""
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        handle.writelines(f"{line}\n" for line in lines)
        handle.flush()
        if like is not None:
            os.fchown(handle.fileno(), like.st_uid, like.st_gid)
            os.fchmod(handle.fileno(), like.st_mode & 0o7777)
        os.fsync(handle.fileno())
