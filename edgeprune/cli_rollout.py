"""`edgeprune fleet rollout …`, `tick`, `status` and what else moves a rollout on or watches it, on the command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from edgeprune.errors import RecipeError, UpdateError
from edgeprune.fleet.terminal import DEFAULT_REPO, Keys, Repo, need_extra, open_repository, read_repository

if TYPE_CHECKING:
    from edgeprune.fleet.moving import Begun
    from edgeprune.fleet.rollout import Event
    from edgeprune.fleet.store import Store
    from edgeprune.records.rollout import Rollout

rollout = typer.Typer(help="How a release comes to a channel's devices, a few first.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True, markup=False)

Db = Annotated[
    str | None,
    typer.Option(
        "--db", envvar="EDGEPRUNE_FLEET_DB",
        help="Status database: a file, sqlite:///FILE or postgresql://USER@HOST/NAME; REPO.db beside the repository.",
    ),
]  # fmt: skip
Channel = Annotated[str, typer.Option("--channel", help="Devices belong to one; each has one rollout at a time.")]
Why = Annotated[str, typer.Option("--reason", help="Kept in the rollout, for everybody to read.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names of devices: a to z, 0 to 9, '.', '_' and '-'.")]
NamesFile = Annotated[Path | None, typer.Option("--names", help="A file with more names, one a line.")]
Passwords = Annotated[
    Path | None, typer.Option("--mosquitto", help="mosquitto's password file, to be kept up with; then SIGHUP it.")
]


@rollout.command()
def start(
    product: Annotated[str, typer.Option("--product", help="Of the products that were added.")],
    channel: Channel = "stable",
    release: Annotated[int | None, typer.Option("--release", help="Counter; the newest one's.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML with waves and a selector.")] = None,
    waves: Annotated[str | None, typer.Option("--waves", help="Percentages with commas between: 1,10,50,100.")] = None,
    dwell: Annotated[str | None, typer.Option("--dwell", help="Each wave lasts at least so long: 15m, 4h, 1d.")] = None,
    success: Annotated[float | None, typer.Option("--success", help="Committed : executed, at least: 0.95.")] = None,
    error: Annotated[float | None, typer.Option("--error", help="Failed : executed; over it, it halts: 0.05.")] = None,
    min_executed: Annotated[
        int | None, typer.Option("--min-executed", help="Devices of a wave that must have ended theirs before.")
    ] = None,
    sku: Annotated[list[str] | None, typer.Option("--sku", help="Only these; all that the release is for.")] = None,
    runtime: Annotated[list[str] | None, typer.Option("--runtime", help="Only these: onnxruntime, openvino.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only devices that have all of these.")] = None,
    repo: Repo = DEFAULT_REPO, keys: Keys = None, db: Db = None,
) -> None:  # fmt: skip
    """Begin a rollout; what the channel had is superseded."""
    need_extra()
    from edgeprune.fleet.recipe import recipe_of

    wanted = recipe_of(
        recipe, waves=waves, dwell=dwell, success=success, error=error, min_executed=min_executed, skus=sku or (),
        runtimes=runtime or (), tags=tag or (),
    )  # fmt: skip
    from edgeprune.fleet.moving import begin

    _check_name("--channel", channel)
    begun = begin(open_repository(repo, keys), _store(repo, db), product, channel, wanted, _now(), release)
    for line in _begun(begun):
        console.print(line)


@rollout.command()
def pause(
    channel: Channel = "stable", reason: Why = "", repo: Repo = DEFAULT_REPO, keys: Keys = None, db: Db = None
) -> None:
    """Let no further device begin; those that have, go on."""
    from edgeprune.fleet import rollout as machine

    _move(channel, repo, keys, db, lambda found: machine.pause(found, reason))


@rollout.command()
def resume(channel: Channel = "stable", repo: Repo = DEFAULT_REPO, keys: Keys = None, db: Db = None) -> None:
    """Go on with a paused rollout; its wave's time begins anew."""
    from edgeprune.fleet import rollout as machine

    _move(channel, repo, keys, db, lambda found: machine.resume(found, _now()))


@rollout.command()
def abort(
    channel: Channel = "stable", reason: Why = "", repo: Repo = DEFAULT_REPO, keys: Keys = None, db: Db = None
) -> None:
    """End a rollout where it is, for good. Devices that have the release keep it; `fleet revert` takes it back."""
    from edgeprune.fleet import rollout as machine

    _move(channel, repo, keys, db, lambda found: machine.abort(found, reason))


@rollout.command("status")
def rollout_status(
    channel: Annotated[str | None, typer.Option("--channel", help="One channel; all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The record as it is signed, for a program.")] = False,
    repo: Repo = DEFAULT_REPO,
    db: Db = None,
) -> None:
    """Waves, failures and history of rollouts."""
    need_extra()
    from edgeprune.fleet.show import WIDTH, show_rollout
    from edgeprune.fleet.view import look

    repository = read_repository(repo)
    found = repository.rollouts()
    if channel is not None and channel not in found:
        raise UpdateError("The channel has no rollout.", got=channel, expected=", ".join(sorted(found)) or "none yet")
    chosen = sorted(found) if channel is None else [channel]
    if as_json:
        _print_json({name: found[name].model_dump(mode="json") for name in chosen})
        return
    console.width = max(console.width, WIDTH)
    for view in look(repository, _store(repo, db), _now(), dots=0).rollouts:
        if view.channel in chosen:
            show_rollout(view, console)
    if not found:
        console.print("no rollout yet: edgeprune fleet rollout start begins one")


def tick(repo: Repo = DEFAULT_REPO, keys: Keys = None, db: Db = None) -> None:
    """From cron: sign anew what expires soon, and move every rollout on, or halt it. Twice is as good as once."""
    need_extra()
    from edgeprune.fleet.tick import tick as once

    done = once(open_repository(repo, keys), lambda: _store(repo, db), _now())
    for event in done.events:
        console.print(_said(event))
    if done.renewed:
        console.print(f"signed anew: {', '.join(done.renewed)}")
    if not done.events and not done.renewed:
        console.print("nothing to do")


def enroll(
    sku: Annotated[str, typer.Option("--sku", help="What kind of device: the target that its builds are made for.")],
    names: Names = None,
    product: Annotated[str | None, typer.Option("--product", help="What it will run; until it says so itself.")] = None,
    channel: Annotated[str | None, typer.Option("--channel", help="Where it will belong; the same.")] = None,
    runtime: Annotated[str, typer.Option("--runtime", help="'onnxruntime 1.30.0'; the same.")] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="More than once for more; the same.")] = None,
    names_file: NamesFile = None,
    mosquitto: Passwords = None,
    again: Annotated[bool, typer.Option("--again", help="They were installed anew: a new token.")] = False,
    new_sku: Annotated[bool, typer.Option("--new-sku", help="No release has a build for this SKU yet.")] = False,
    repo: Repo = DEFAULT_REPO, db: Db = None,
) -> None:  # fmt: skip
    """Let devices speak. Prints each with its token, which is its password at the broker too: once, and never again."""
    need_extra()
    from edgeprune.fleet.enrolling import enroll as take_in

    devices = _names(names, names_file)
    for option, value in (("--sku", sku), ("--product", product), ("--channel", channel)):
        if value is not None:
            _check_name(option, value)
    if not new_sku:
        _known_sku(repo, product, sku)
    tokens = take_in(
        _store(repo, db), devices, sku, _now(), product=product, channel=channel, runtime=runtime,
        tags=tuple(tag or ()), again=again, passwords=mosquitto,
    )  # fmt: skip
    for device, token in tokens.items():
        print(f"{device}\t{token}")


def retire(
    names: Names = None, names_file: NamesFile = None, mosquitto: Passwords = None, repo: Repo = DEFAULT_REPO,
    db: Db = None,
) -> None:  # fmt: skip
    """Let devices speak no longer, and forget what they said."""
    need_extra()
    from edgeprune.fleet.credentials import write_passwords

    devices = _names(names, names_file)
    _store(repo, db).retire(devices)
    if mosquitto is not None:
        write_passwords(mosquitto, {}, gone=devices)
    console.print(f"{len(devices)} retired")


def collect(
    mqtt: Annotated[str | None, typer.Option("--mqtt", help="mqtts://HOST[:PORT]: listen to a broker.")] = None,
    http: Annotated[str | None, typer.Option("--http", help="HOST:PORT: take POST /status/DEVICE.")] = None,
    mqtt_user: Annotated[
        str | None,
        typer.Option("--mqtt-user", help="Its password is in EDGEPRUNE_MQTT_PASSWORD, or in its _FILE."),
    ] = None,
    mqtt_ca: Annotated[Path | None, typer.Option("--mqtt-ca", help="Certificate to trust (PEM); the system's.")] = None,
    mqtt_cert: Annotated[Path | None, typer.Option("--mqtt-cert", help="Our certificate (PEM), if asked.")] = None,
    mqtt_key: Annotated[Path | None, typer.Option("--mqtt-key", help="… and its key.")] = None,
    session: Annotated[str, typer.Option("--session", help="Client id at the broker, which keeps our place.")] = (
        "edgeprune-collect"
    ),
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="For --http: a certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="… and its key.")] = None,
    repo: Repo = DEFAULT_REPO, db: Db = None,
) -> None:  # fmt: skip
    """Take what devices say of themselves into the status database, over MQTT, HTTP or both, until interrupted."""
    need_extra()
    if mqtt is None and http is None:
        raise UpdateError("Nothing to listen to.", expected="--mqtt mqtts://HOST or --http HOST:PORT, or both")
    from edgeprune.fleet import serving

    broker = None
    if mqtt is not None:
        from edgeprune.fleet.collect import broker_of

        broker = broker_of(
            mqtt, user=mqtt_user, password=_secret("EDGEPRUNE_MQTT_PASSWORD"), ca=mqtt_ca, certificate=mqtt_cert,
            key=mqtt_key, session=session,
        )  # fmt: skip
    address = serving.address_of(http, tls_cert, tls_key, strict=True) if http is not None else None
    serving.collect(_store(repo, db), broker, address)


def serve(
    http: Annotated[str, typer.Option("--http", help="HOST:PORT to listen on; port 0: any.")] = "127.0.0.1:8080",
    repo: Repo = DEFAULT_REPO,
    db: Db = None,
) -> None:
    """A page that shows rollouts as they go, and /metrics for Prometheus: read-only, until interrupted."""
    need_extra()
    from edgeprune.fleet import serving

    serving.page(read_repository(repo), _store(repo, db), serving.address_of(http))


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
    repo: Repo = DEFAULT_REPO,
    db: Db = None,
) -> None:
    """Rollouts with their waves, devices by state and release, failures by reason."""
    need_extra()
    from edgeprune.fleet.show import WIDTH, show
    from edgeprune.fleet.view import look

    view = look(read_repository(repo), _store(repo, db), _now(), dots=0)
    if as_json:
        _print_json(view.as_json())
        return
    console.width = max(console.width, WIDTH)
    show(view, console)


#: What stands beside `rollout` under `edgeprune fleet`.
COMMANDS: tuple[Callable[..., Any], ...] = (tick, status, serve, collect, enroll, retire)


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


def _store(repo: Path, db: str | None) -> Store:
    need_extra()
    from edgeprune.fleet.database import url_of
    from edgeprune.fleet.store import Store

    return Store(url_of(db, repo))


def _move(
    channel: str, repo: Path, keys: Path | None, db: str | None, how: Callable[[Rollout], tuple[Rollout, Event]]
) -> None:
    need_extra()
    from edgeprune.fleet.moving import move

    after = move(open_repository(repo, keys), _store(repo, db), channel, how, _now())
    console.print(f"{channel}: {after.product} {after.counter} is {after.state} at {after.percent:g} %")


def _begun(begun: Begun) -> list[str]:
    made, counts = begun.rollout, begun.counts
    lines = [
        f"{made.channel}: rollout {made.serial} brings {made.product} {made.counter}"
        + (f"; who isn't reached yet stays on {made.stable}" if made.stable else "")
    ]
    for wave, seen in zip(made.waves, counts.waves, strict=True):
        lines.append(
            f"  {wave.percent:g} %: {seen.devices:,} devices, at least {wave.dwell_s:,} s and "
            f"{min(wave.min_executed, seen.devices):,} of them done, success >= {wave.success:.1%}, "
            f"errors <= {wave.error:.1%}"
        )
    if not counts.selected:
        lines.append("  no enrolled device is selected: it waits until there is one")
    elif not counts.waves[0].devices:
        lines.append("  nobody is in the first wave: the fleet is too small for it, and the next one is the canary")
    lines += [f"  {n:,} devices of {sku} are left out: it has no build for them" for sku, n in begun.left_out.items()]
    return [*lines, "next: edgeprune fleet tick, from cron, moves it on"]


def _said(event: Event) -> str:
    return (
        f"{event.channel}: rollout {event.serial} of {event.product} {event.counter} {event.kind} {event.text}".rstrip()
    )


def _names(names: list[str] | None, file: Path | None) -> list[str]:
    found = list(names or ())
    if file is not None:
        try:
            found += [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as problem:
            raise UpdateError("The file can't be read.", where=file, got=str(problem)) from problem
    if not found:
        raise UpdateError("No device is named.", expected="names, or --names with a file of them")
    for name in found:
        _check_name("DEVICE", name)
    return found


def _check_name(what: str, name: str) -> None:
    from edgeprune.records.release import is_name

    if not is_name(name):
        raise UpdateError(
            "It can't be called that.", where=what, got=repr(name),
            expected="a to z, 0 to 9, '.', '_' and '-', 64 at most, a letter or digit at both ends",
        )  # fmt: skip


def _known_sku(repo: Path, product: str | None, sku: str) -> None:
    """Raise UpdateError for a SKU that no release of the product, or of any, has a build for."""
    repository = read_repository(repo)
    known = repository.products()
    if product is not None and product not in known:
        raise UpdateError(
            "Nobody knows this product.", where=repo, got=product, expected=", ".join(known) or "none yet"
        )
    releases = [release for name in ([product] if product else known) for release in repository.releases(name)]
    skus = sorted({build.sku for release in releases for build in release.builds})
    if sku not in skus:
        raise UpdateError(
            "No release has a build for this SKU.", where=repo, got=sku, expected=", ".join(skus) or "no release yet",
            next_step="is it right all the same? Then give --new-sku",
        )  # fmt: skip


def _secret(variable: str) -> str | None:
    """From the environment, or from the file that VARIABLE_FILE names; None: neither."""
    if value := os.environ.get(variable):
        return value
    file = os.environ.get(f"{variable}_FILE")
    try:
        return Path(file).read_text(encoding="utf-8").strip() if file else None
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError("The file can't be read.", where=f"{variable}_FILE={file}", got=str(problem)) from problem


def _print_json(content: object) -> None:
    sys.stdout.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
