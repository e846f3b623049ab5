"""`edgeprune fleet rollout …`, `tick`, `status` and what else moves a rollout on or watches it, on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

rollout = typer.Typer(help="How a release comes to a channel's devices, a few first.", no_args_is_help=True)

#: What stands beside `rollout` under `edgeprune fleet`.
COMMANDS: tuple[Callable[..., Any], ...] = ()
