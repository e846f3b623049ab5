"""`edgeprune fleet keys …`, `sign` and `apply`: who may sign what, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgeprune.errors import UpdateError
from edgeprune.fleet.terminal import (
    DEFAULT_REPO,
    Keys,
    Propose,
    Repo,
    ask,
    confirm,
    keys_of,
    need_extra,
    open_keys,
    open_repository,
    proposed,
    read_repository,
)
from edgeprune.records.signing import KEY_ROLES, KeyRole

keys = typer.Typer(help="Who may sign what: list, rotate, hand over.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True, markup=False)


@keys.command("list")
def list_keys(repo: Repo = DEFAULT_REPO, keys: Keys = None) -> None:
    """Roles, their keys and thresholds, and which of them are here."""
    from rich.table import Table

    trusted = read_repository(repo).published().trusted
    from edgeprune.fleet.authority import seats
    from edgeprune.fleet.keys import Keyring, name_of

    folder = keys_of(repo, keys)
    here = Keyring(folder, ask).keys if folder.is_dir() else {}
    table = Table("role", "must sign", "key", "id", "where", box=None)
    used = set()
    for seat in seats(trusted.root, trusted.targets):
        for index, key in enumerate(seat.keys):
            used.add(key.keyid)
            place = here[key.keyid].uri.split(":")[0] if key.keyid in here else "elsewhere"
            first = (seat.role, f"{seat.threshold} of {len(seat.keys)}") if index == 0 else ("", "")
            table.add_row(*first, name_of(key), key.keyid[:8], "here" if place == "encrypted" else place)
    for key_here in here.values():
        if key_here.keyid not in used:
            table.add_row("", "", key_here.name, key_here.keyid[:8], "here; signs for nothing")
    console.print(table)


@keys.command()
def rotate(
    role: Annotated[str, typer.Argument(help="root, targets, online or release.")],
    repo: Repo = DEFAULT_REPO,
    keys: Keys = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="Only this one leaves; may be given again.")] = None,
    add: Annotated[int, typer.Option("--add", min=0, max=16, help="So many more keys.")] = 0,
    given: Annotated[
        list[Path] | None, typer.Option("--with", help="NAME.json of a key that another holder made (keys new).")
    ] = None,
    threshold: Annotated[int | None, typer.Option("--threshold", min=1, help="How many must sign from now on.")] = None,
    product: Annotated[str | None, typer.Option("--product", help="Of a release key: for this product alone.")] = None,
    propose: Propose = None,
) -> None:
    """Replace a role's keys by new ones: all of them, where nothing says else.

    Needs the keys of who delegates to it: root's, and targets' for release keys.
    """
    repository = open_repository(repo, keys)
    from edgeprune.fleet import authority
    from edgeprune.fleet.keys import read_key

    made = authority.rotate(
        repository, key_role(role), replace=key, add=add, given=[read_key(path) for path in given or []],
        threshold=threshold, product=product, propose=propose,
    )  # fmt: skip
    if propose:
        console.print(proposed(propose))
    else:
        console.print(f"{role}: signed by {', '.join(made)} from now on" if made else f"{role}: changed")


@keys.command()
def new(
    role: Annotated[str, typer.Argument(help="root, targets, online or release.")],
    keys: Annotated[Path, typer.Option("--keys", help="Folder of keys; made where there is none.")],
) -> None:
    """Make a key on this machine, for `keys rotate --with NAME.json` on another one."""
    need_extra()
    from edgeprune.fleet.keys import Keyring, name_of

    keyring = Keyring(keys, ask) if keys.is_dir() else Keyring.make(keys, ask)
    made = keyring.generate(key_role(role))
    console.print(f"{keys / name_of(made)}.json is its public half: give that away, and nothing else")


@keys.command()
def move(
    name: Annotated[str, typer.Argument(help="As keys list has it.")],
    to: Annotated[Path, typer.Argument(help="Folder of keys, on a stick for instance; made where there is none.")],
    repo: Repo = DEFAULT_REPO,
    keys: Keys = None,
) -> None:
    """Move a key into another folder, for its holder's machine."""
    open_keys(repo, keys).hand_over(name, to)
    console.print(f"{name} is in {to}, and not here any more")


def sign(
    proposal: Annotated[Path, typer.Argument(help="What --propose has written.")],
    keys: Annotated[Path, typer.Option("--keys", envvar="EDGEPRUNE_FLEET_KEYS", help="Folder of this holder's keys.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Add a holder's signatures to a proposal, on their own machine. Shows what it changes, and asks."""
    keyring = open_keys(keys, keys)
    from edgeprune.fleet import authority

    for line in authority.describe(authority.read_proposal(proposal, keyring)):
        console.print(f"  {line}")
    if not yes:
        confirm("Sign this?")
    draft = authority.sign(proposal, keyring)
    lacking = [found for role in draft.changed if (found := draft.lacking(role))]
    for line in lacking:
        console.print(f"  lacks {line}")
    if not lacking:
        console.print(f"enough have signed; next, with the online key: edgeprune fleet apply {proposal}")


def apply(
    proposal: Annotated[Path, typer.Argument(help="A proposal that enough have signed.")],
    repo: Repo = DEFAULT_REPO,
    keys: Keys = None,
) -> None:
    """Publish a proposal. Needs the online key."""
    repository = open_repository(repo, keys)
    from edgeprune.fleet import authority

    said = authority.describe(authority.read_proposal(proposal, repository.keyring))
    authority.apply(repository, proposal)
    for line in said:
        console.print(f"  {line}")


def key_role(text: str) -> KeyRole:
    """'root', 'targets', 'release' or 'online'."""
    for role in KEY_ROLES:
        if role == text:
            return role
    raise UpdateError("There is no such role of keys.", expected=", ".join(KEY_ROLES), got=text)
