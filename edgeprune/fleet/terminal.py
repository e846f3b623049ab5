"""What all of `edgeprune fleet` on the command line shares: where the repository and its keys are, and passwords."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeprune.errors import UpdateError, missing_package
from edgeprune.records.signing import KeyRole

if TYPE_CHECKING:
    from edgeprune.fleet.keys import Keyring
    from edgeprune.fleet.repository import Repository

#: The repository's folder.
Repo = Annotated[
    Path, typer.Option("--repo", envvar="EDGEPRUNE_FLEET_REPO", help="The repository, as fleet init made it.")
]
DEFAULT_REPO = Path("fleet")
#: The folder of keys.
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys", envvar="EDGEPRUNE_FLEET_KEYS",
        help="Folder of the signing keys; REPO.keys beside it. Passwords are asked for on a terminal, or come from "
        "EDGEPRUNE_KEY_PASSWORD_ROLE (ROOT, TARGETS, RELEASE, ONLINE) or EDGEPRUNE_KEY_PASSWORD, or from the file that "
        "one of these with _FILE behind it names.",
    ),
]  # fmt: skip
#: For what needs keys of several holders.
Propose = Annotated[
    Path | None, typer.Option("--propose", help="Write it to this file for others to sign, instead of publishing it.")
]


def keys_of(repo: Path, keys: Path | None) -> Path:
    """Where a repository's keys are where nobody says otherwise: beside it, never in it."""
    return keys or repo.absolute().with_name(f"{repo.absolute().name}.keys")


def ask(role: KeyRole, new: bool) -> str:
    """A role's password: from the environment, or asked for on the terminal, twice for a new key."""
    from edgeprune.fleet.keys import find_password, from_environment

    found = find_password(role)
    if found is None and sys.stdin.isatty():
        found = typer.prompt(f"Password of the {role} key", hide_input=True, confirmation_prompt=new, err=True)
    return found if found is not None else from_environment(role)


def open_keys(repo: Path, keys: Path | None) -> Keyring:
    """The folder of keys.

    Raises:
        UpdateError: There is none.
        DeviceError: The extra isn't installed.
    """
    need_extra()
    from edgeprune.fleet.keys import Keyring

    return Keyring(keys_of(repo, keys), ask)


def open_repository(repo: Path, keys: Path | None) -> Repository:
    """The repository, with its keys; they are opened when something is signed."""
    keyring = open_keys(repo, keys)
    from edgeprune.fleet.repository import Repository

    return Repository.open(repo, keyring)


def read_repository(repo: Path) -> Repository:
    """The repository to be read, without keys."""
    need_extra()
    from edgeprune.fleet.repository import Repository

    return Repository.open(repo)


def need_extra() -> None:
    """Raise DeviceError where the extra isn't installed."""
    try:
        import tuf.api.metadata  # noqa: F401
    except ImportError as error:
        raise missing_package(str(error.name), "fleet") from error


def proposed(path: Path) -> str:
    """What to do with a proposal."""
    return f"{path} waits for signatures; each holder: edgeprune fleet sign {path} --keys THEIR_KEYS"


def confirm(question: str) -> None:
    """Go on only after a yes; where nobody can be asked, that is a no.

    Raises:
        UpdateError: A no.
    """
    if not (sys.stdin.isatty() and typer.confirm(question, err=True)):
        raise UpdateError("Nothing was done.", got="no yes", next_step="--yes says it beforehand")
