"""`edgeprune fleet …`: the signing side of a fleet, on the command line."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edgeprune.cli_keys import apply, key_role, keys, sign
from edgeprune.cli_rollout import COMMANDS, rollout
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
    open_repository,
    proposed,
    read_repository,
)

if TYPE_CHECKING:
    from edgeprune.fleet.keys import Keyring
    from edgeprune.records.release import Release

fleet = typer.Typer(help="Releases and rollouts of a fleet: signed, staged, self-reverting.", no_args_is_help=True)
product = typer.Typer(help="What a fleet runs; each has releases and a signing role of its own.", no_args_is_help=True)
fleet.add_typer(product, name="product")
fleet.add_typer(keys, name="keys")
fleet.add_typer(rollout, name="rollout")
for command in COMMANDS:
    fleet.command()(command)
fleet.command()(sign)
fleet.command()(apply)
console = Console(highlight=False, soft_wrap=True, markup=False)

Product = Annotated[str, typer.Option("--product", help="Of the products that were added.")]


@fleet.command()
def init(
    repo: Annotated[Path, typer.Argument(help="Folder that will be served; made.")],
    keys: Keys = None,
    root_keys: Annotated[int, typer.Option("--root-keys", min=1, max=16, help="Keys of the root role.")] = 1,
    root_threshold: Annotated[int, typer.Option("--root-threshold", min=1, help="How many of them must sign.")] = 1,
    targets_keys: Annotated[int, typer.Option("--targets-keys", min=1, max=16, help="Keys of the targets role.")] = 1,
    targets_threshold: Annotated[int, typer.Option("--targets-threshold", min=1, help="How many must sign.")] = 1,
    signer: Annotated[
        list[str] | None,
        typer.Option(
            "--signer", help="A key in an HSM or KMS instead of a file: ROLE=PUBLIC.pem,URI with a URI as "
            "securesystemslib has them (hsm:, gcpkms:, awskms:, azurekms:, hv:). More than once for more.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Make a repository (static files) and its keys: root and targets, to be kept offline, release, and online."""
    need_extra()
    from edgeprune.fleet.init import Holders
    from edgeprune.fleet.init import init as make
    from edgeprune.fleet.keys import Keyring, refuse_served
    from edgeprune.fleet.trusted import metadata_file

    folder = keys_of(repo, keys)
    refuse_served(folder, repo)
    keyring = Keyring(folder, ask) if folder.is_dir() else Keyring.make(folder, ask)
    for given in signer or []:
        _adopt(keyring, given)
    make(repo, keyring, root=Holders(root_keys, root_threshold), targets=Holders(targets_keys, targets_threshold))
    console.print(f"{repo}: a repository; serve this folder as it is")
    console.print(f"{folder}: its keys; root and targets belong on a machine, or sticks, that are offline")
    console.print(f"devices are given {metadata_file(repo, 'root', 1)}: everything else follows from it")
    console.print("next: edgeprune fleet product add PRODUCT")


@product.command("add")
def add(
    name: Annotated[str, typer.Argument(help="a to z, 0 to 9, '.', '_' and '-'.")],
    repo: Repo = DEFAULT_REPO,
    keys: Keys = None,
    own_key: Annotated[bool, typer.Option("--own-key", help="Make a release key for it alone.")] = False,
    propose: Propose = None,
) -> None:
    """Let the release key sign a product's models. Needs it and the targets keys."""
    repository = open_repository(repo, keys)
    from edgeprune.fleet.authority import add_product

    add_product(repository, name, own_key=own_key, propose=propose)
    if propose:
        console.print(proposed(propose))
    else:
        console.print(f"{name} is a product; next: edgeprune fleet publish BUNDLE --product {name}")


@fleet.command()
def publish(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles, each of another SKU (its target).")],
    product: Product,
    repo: Repo = DEFAULT_REPO,
    keys: Keys = None,
    label: Annotated[str, typer.Option("--label", help="What people call it.")] = "",
    report: Annotated[
        list[Path] | None, typer.Option("--report", help="report.json of each bundle, where it isn't beside it.")
    ] = None,
    new_sku: Annotated[bool, typer.Option("--new-sku", help="A SKU that no earlier release had is meant so.")] = False,
    latency_tolerance: Annotated[
        float, typer.Option("--latency-tolerance", min=1, max=100, help="Times that a device's self-test may take.")
    ] = 1.5,
    force: Annotated[
        bool, typer.Option("--force", help="Also what no report accepted; asks, and is recorded.")
    ] = False,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, with --force.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Publish a release of accepted bundles under the product's next number. Needs the release and the online key."""
    need_extra()
    from edgeprune.fleet.publish import examine
    from edgeprune.fleet.publish import publish as publish_release

    reports: list[Path | None] = [*report] if report else [None] * len(bundles)
    if len(reports) != len(bundles):
        raise UpdateError("There is a report for each bundle, or none.", expected=len(bundles), got=len(reports))
    if reason is not None and not force:
        raise UpdateError("A reason is for what is forced.", where="--reason", next_step="add --force")

    def forced(why: str) -> str:
        if not yes:
            confirm(f"Not accepted: {why} Publish it all the same?")
        return reason or (typer.prompt("Why?", err=True) if sys.stdin.isatty() else "")

    offered = [examine(b, r, forced if force else None) for b, r in zip(bundles, reports, strict=True)]
    repository = open_repository(repo, keys)
    release = publish_release(
        repository, product, offered, label=label, new_skus=new_sku, latency_tolerance=latency_tolerance
    )
    _show(release)
    earlier = repository.releases(product)[:-1]
    missing = {b.sku for r in earlier[-1:] for b in r.builds} - {b.sku for b in release.builds}
    if missing:
        console.print(f"  not in it, so that such devices keep what they have: {', '.join(sorted(missing))}")
    console.print(f"next: edgeprune fleet rollout start --product {product} --release {release.counter}")


@fleet.command()
def revert(
    product: Product,
    to: Annotated[int, typer.Option("--to", min=1, help="The release whose bytes come back.")],
    repo: Repo = DEFAULT_REPO,
    keys: Keys = None,
    label: Annotated[str, typer.Option("--label", help="What people call it.")] = "",
) -> None:
    """Publish an earlier release's bytes under a new number, since devices refuse lower ones. Needs the release key."""
    repository = open_repository(repo, keys)
    from edgeprune.fleet.publish import revert as revert_release

    release = revert_release(repository, product, to, label=label)
    _show(release)
    console.print(f"next: edgeprune fleet rollout start --product {product} --release {release.counter}")


@fleet.command()
def releases(product: Product, repo: Repo = DEFAULT_REPO) -> None:
    """A product's releases."""
    found = read_repository(repo).releases(product)
    for release in found:
        _show(release)
    if not found:
        console.print(f"{product} has no release yet")


@fleet.command()
def renew(
    roles: Annotated[
        list[str] | None, typer.Argument(help="root, targets, models-PRODUCT: renew these too, with their keys.")
    ] = None,
    repo: Repo = DEFAULT_REPO,
    keys: Keys = None,
    propose: Propose = None,
) -> None:
    """Sign anew what expires: snapshot, timestamp and rollouts when half of their time is over, others when named."""
    if propose and not roles:
        raise UpdateError("Nothing is proposed.", expected="roles to renew: root, targets, models-PRODUCT")
    repository = open_repository(repo, keys)
    renewed = repository.renew(roles=roles or (), propose=propose)
    if propose:
        console.print(proposed(propose))
        return
    console.print(f"signed anew: {', '.join(renewed)}" if renewed else "nothing expires soon")
    _expiries(repo)


@fleet.command()
def check(repo: Repo = DEFAULT_REPO) -> None:
    """Verify all that is published, as a device would, and every file. Exit code 1 where something is wrong."""
    published = read_repository(repo).published()
    problems = published.problems(datetime.now(timezone.utc))
    for problem in problems:
        console.print(f"  {problem}")
    _expiries(repo)
    if problems:
        raise typer.Exit(1)
    console.print(f"{repo}: everything is there and signed")


def _adopt(keyring: Keyring, given: str) -> None:
    """'root=public.pem,hsm:2?label=root' as a key of the keyring."""
    role, _, rest = given.partition("=")
    public, _, uri = rest.partition(",")
    if not uri:
        raise UpdateError("The signer can't be read.", where="--signer", expected="ROLE=PUBLIC.pem,URI", got=given)
    keyring.adopt(key_role(role), Path(public), uri)


def _show(release: Release) -> None:
    back = f"(back to {release.reverts_to})" if release.reverts_to else ""
    console.print(" ".join(filter(None, (release.product, str(release.counter), release.label, back))))
    for build in release.builds:
        deltas = ", ".join(f"{delta.file.bytes / build.archive.bytes:.1%}" for delta in build.deltas)
        console.print(
            f"  {build.sku}: {build.archive.bytes / 1e6:.1f} MB{f', deltas of {deltas}' if deltas else ''}, "
            f"{build.latency_ms:.2f} ms on {build.runtime}{f'; forced: {build.forced}' if build.forced else ''}"
        )


def _expiries(repo: Path) -> None:
    for role, expires in sorted(read_repository(repo).published().expiries().items(), key=lambda item: item[1]):
        console.print(f"  {role}: until {expires:%Y-%m-%d %H:%M} UTC")
