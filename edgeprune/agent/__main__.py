"""The agent as a command:

    python -m edgeprune.agent --config agent.yaml once|run|status|confirm|factory|install-units

Exit codes are those of exits.py. Starting is quick: what a go doesn't need isn't imported.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.agent.exits import Ending, Exit
from edgeprune.errors import EdgepruneError

if TYPE_CHECKING:
    from edgeprune.records.agent import AgentConfig

CONFIG = Path("/etc/edgeprune/agent.yaml")


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        ending = _do(options)
    except EdgepruneError as error:
        print(f"edgeprune agent: {error}", file=sys.stderr)
        return Exit.USER
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    _say(ending.said)
    return ending.code


def _options(arguments: list[str] | None) -> argparse.Namespace:
    codes = ", ".join(f"{code.value} {code.name.lower()}" for code in Exit)
    parser = argparse.ArgumentParser(prog="python -m edgeprune.agent", description="A device's own agent.",
                                     epilog=f"Exit codes: {codes}.")  # fmt: skip
    parser.add_argument("--config", type=Path, default=CONFIG, help="agent.yaml (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    once = commands.add_parser("once", help="one go: what a timer starts")
    once.add_argument("--no-wait", action="store_true", help="don't watch a new model to the end; the next go does")
    commands.add_parser("run", help="go after go, until it is stopped: where there is no timer")
    status = commands.add_parser("status", help="what the device last said of itself")
    status.add_argument("--json", action="store_true", help="the whole memory of the agent")
    commands.add_parser("confirm", help="keep the model that is watched, now")
    factory = commands.add_parser("factory", help="put the model on the device that it is made with")
    factory.add_argument("bundle", type=Path, help="folder with manifest.json")
    units = commands.add_parser("install-units", help="write the systemd service and timer for this configuration")
    units.add_argument("--into", type=Path, default=Path("/etc/systemd/system"), help="default: %(default)s")
    units.add_argument("--user", default="edgeprune", help="who it runs as (default: %(default)s)")
    units.add_argument("--every", default="1h", help="between polls, as systemd says it (default: %(default)s)")
    units.add_argument("--jitter", default="10min", help="at most so much later, by chance (default: %(default)s)")
    return parser.parse_args(arguments)


def _do(options: argparse.Namespace) -> Ending:
    from edgeprune.records.agent import read_config

    config = read_config(options.config)
    if options.command == "once":
        return _agent(config).once(wait=not options.no_wait)
    if options.command == "run":
        return _run(config)
    if options.command == "confirm":
        return _confirm(config)
    if options.command == "status":
        return _status(config, options.json)
    if options.command == "factory":
        return _factory(config, options.bundle)
    from edgeprune.agent.units import install

    made = install(config, options.config, options.into, options.user, options.every, options.jitter)
    return Ending(Exit.NOTHING, "\n".join([*map(str, made), "systemctl daemon-reload && systemctl enable --now "
                                           "edgeprune-agent.timer"]))  # fmt: skip


def _agent(config: AgentConfig):  # type: ignore[no-untyped-def]
    from edgeprune.agent.update import Agent, need_tuf

    need_tuf()
    return Agent(config, say=_say)


def _run(config: AgentConfig) -> Ending:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    agent = _agent(config)
    while True:
        ending = agent.once()
        _say(f"{ending.said} ({ending.code.name.lower()})")
        time.sleep(config.poll_s * random.uniform(0.9, 1.1))


def _confirm(config: AgentConfig) -> Ending:
    from edgeprune.agent.slots import Slots
    from edgeprune.errors import UpdateError
    from edgeprune.records.agent import CONFIRMED, Installed
    from edgeprune.records.base import write_json

    slots = Slots(Path(config.folder))
    update = slots.read_state()[0].update
    if update is None or update.step != "watching":
        raise UpdateError("There is no model that waits for a word.", where=config.folder)
    said = Installed(slot=update.slot, counter=update.release, manifest_sha256=update.manifest_sha256)
    write_json(slots.folder / CONFIRMED, said)
    return Ending(Exit.NOTHING, f"release {update.release} is confirmed; the agent keeps it at its next look")


def _status(config: AgentConfig, whole: bool) -> Ending:
    from edgeprune.agent.slots import Slots
    from edgeprune.records.base import to_json

    slots = Slots(Path(config.folder))
    state, _ = slots.read_state()
    if whole:
        return Ending(Exit.NOTHING, to_json(state).decode().rstrip())
    runs = "no model" if state.installed is None else f"release {state.installed.counter} is kept"
    word = state.word
    lines = [f"{config.device}: {runs}, {slots.current() or 'no slot'} is current"]
    if word is not None:
        about = f"release {word.release} of rollout {word.rollout}: " if word.release else ""
        heard = "heard" if state.heard >= word.seq else "not heard yet"
        lines.append(f"{about}{word.state}{f' ({word.reason})' if word.reason else ''}; said {word.at}, {heard}")
    return Ending(Exit.NOTHING, "\n".join(lines))


def _factory(config: AgentConfig, bundle: Path) -> Ending:
    from edgeprune.agent.slots import BusyAgentError, Slots
    from edgeprune.errors import BundleError
    from edgeprune.runtime.bundle import open_bundle

    target = open_bundle(bundle).target
    if target != config.sku:
        raise BundleError("The bundle is for another SKU.", where=bundle, expected=config.sku, got=target)
    slots = Slots(Path(config.folder))
    try:
        with slots.alone():
            manifest = slots.factory(bundle)
            if slots.current() is None:
                slots.point("factory")
    except BusyAgentError:
        return Ending(Exit.BUSY, f"another agent is at work in {config.folder}")
    return Ending(Exit.NOTHING, f"the factory model is {manifest[:12]}")


def _say(said: str) -> None:
    with contextlib.suppress(OSError):  # a log that can't be written is no reason to stop
        print(said, flush=True)


if __name__ == "__main__":
    sys.exit(main())
