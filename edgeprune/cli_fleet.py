"""`edgeprune fleet …`: the signing side of a fleet, on the command line."""

from __future__ import annotations

import typer

from edgeprune.cli_rollout import COMMANDS, rollout

fleet = typer.Typer(help="Releases and rollouts of a fleet: signed, staged, self-reverting.", no_args_is_help=True)
fleet.add_typer(rollout, name="rollout")
for command in COMMANDS:
    fleet.command()(command)
