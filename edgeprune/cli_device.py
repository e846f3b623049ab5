"""`edgeprune device …`: machines that engines run on, over SSH."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from edgeprune.errors import DeviceError
from edgeprune.records.address import DeviceAddress, parse_address

if TYPE_CHECKING:
    from edgeprune.records import DeviceInfo
    from edgeprune.records.installation import Installation

# a copy goes on after its connection broke off; asyncio's word on each byte that couldn't be sent says nothing more
logging.getLogger("asyncio").setLevel(logging.ERROR)

device = typer.Typer(no_args_is_help=True, help="Devices over SSH: set one up, ask one what it is.")
console = Console(file=sys.stdout, highlight=False, soft_wrap=True, markup=False)

Address = Annotated[str, typer.Argument(help="ssh://user@host, ssh://user@host:port, or local.")]


@device.command()
def setup(
    address: Address,
    runtime: Annotated[str, typer.Option("--runtime", help="onnxruntime, openvino or tensorrt.")] = "onnxruntime",
    python: Annotated[str, typer.Option("--python", help="The device's interpreter to build on.")] = "python3",
    offline: Annotated[
        bool,
        typer.Option("--offline", help="The device reaches no package index: fetch its wheels here and copy them."),
    ] = False,
    agent: Annotated[bool, typer.Option("--agent", help="With what a fleet's agent needs (README, 'Fleets').")] = False,
    wheel: Annotated[
        Path | None, typer.Option("--wheel", help="edgeprune's wheel; without it, one is built from the checkout.")
    ] = None,
) -> None:
    """Install the device side and one runtime there, in a virtual environment of its own."""
    from edgeprune.records.target import PRECISIONS
    from edgeprune.report.device import installation_lines

    if runtime not in PRECISIONS:
        raise DeviceError("There is no such runtime.", where="--runtime", expected=", ".join(PRECISIONS), got=runtime)
    where = parse_address(address)
    if where is None:
        raise DeviceError(
            "This machine is set up already: this command runs on it.", got=address, expected="ssh://user@host"
        )

    found, made = asyncio.run(_setup(where, runtime, python, wheel, offline, agent))
    console.print(f"{where}: {found.name}, on Python {found.python}")
    for line in installation_lines(found):
        console.print(f"  {line}")
    if not made:
        console.print("  nothing to do: the same was installed before")


@device.command()
def info(
    address: Address,
    as_json: Annotated[bool, typer.Option("--json", help="The record instead of a table.")] = False,
) -> None:
    """What a device is and which state it is in: board, system, runtimes, clocks, throttling, space."""
    from edgeprune.bench.board import device_info
    from edgeprune.records.base import to_json
    from edgeprune.report.device import info_table, warnings

    where = parse_address(address)
    found = device_info() if where is None else asyncio.run(_info(where))
    if as_json:
        sys.stdout.write(to_json(found).decode())
        return
    console.print(info_table(found))
    for warning in warnings(found):
        console.print(f"  {warning}")


async def _setup(
    where: DeviceAddress, runtime: str, python: str, wheel: Path | None, offline: bool, agent: bool
) -> tuple[Installation, bool]:
    from edgeprune.remote.device import connect
    from edgeprune.remote.setup import set_up

    async with connect(where) as connected:
        return await set_up(
            connected,
            runtime,
            python=python,
            wheel=wheel,
            offline=offline,
            agent=agent,
            tell=lambda what: console.print(f"  {what}"),
        )


async def _info(where: DeviceAddress) -> DeviceInfo:
    from edgeprune.remote.device import connect
    from edgeprune.remote.setup import ask

    async with connect(where) as connected:
        return await ask(connected)
