"""`edgeprune prune | explain | apply`: one model by itself, without a target, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edgeprune.errors import PlanError, RecipeError
from edgeprune.records import PrunePlan, Recipe, read_json
from edgeprune.records.base import parse
from edgeprune.records.methods import LEAVE_ZEROS, METHODS

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def prune(
    model: Annotated[Path, typer.Argument(help="Checkpoint (.pt), or a model YAML (random weights by seed).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for parent.pt, plan.json and pruned.pt.")],
    ratio: Annotated[float | None, typer.Option(help="Pruning ratio: channels removed : original.")] = None,
    macs_ratio: Annotated[float | None, typer.Option(help="MACs that may stay, as a share.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros, for what leaves zeros.")] = None,
    granularity: Annotated[str, typer.Option(help="One of edgeprune methods.")] = "channels",
    importance: Annotated[str, typer.Option(help="One of edgeprune methods.")] = "l2",
    allocation: Annotated[str, typer.Option(help="One of edgeprune methods.")] = "global",
    channel_multiple: Annotated[int, typer.Option(min=1, help="Cut widths divide by it.")] = 8,
    data: Annotated[Path | None, typer.Option(help="data.yaml, for methods that need data.")] = None,
    imgsz: Annotated[int, typer.Option(min=32, help="Pixels of the square input that MACs are counted at.")] = 640,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Cut one model, without a target: writes what it started from, the plan, and the smaller checkpoint."""
    goals = {"--ratio": ratio, "--macs-ratio": macs_ratio, "--sparsity": sparsity}
    given = [name for name, value in goals.items() if value is not None]
    if len(given) != 1:
        raise RecipeError(
            "Give one goal.", expected="--ratio, --macs-ratio or --sparsity", got=" and ".join(given) or "none"
        )
    for name, value in goals.items():
        if value is not None and not 0 < value < 1:
            raise RecipeError("The goal is out of range.", where=name, expected="over 0 and under 1", got=value)
    for name, text, known in (
        ("--granularity", granularity, tuple(METHODS["granularity"])),
        ("--importance", importance, tuple(METHODS["importance"])),
        ("--allocation", allocation, tuple(METHODS["allocation"])),
    ):
        if text not in known:
            raise RecipeError("Unknown value.", where=name, expected=", ".join(known), got=text)
    if sparsity is not None or granularity in LEAVE_ZEROS:
        how = {"granularity": granularity, "importance": importance, "allocation": allocation}
        parse(Recipe, {**how, "goal": {"sparsity": sparsity} if sparsity else {}}, RecipeError, where="prune")
    from edgeprune.prune.make import prune_checkpoint
    from edgeprune.prune.request import Request
    from edgeprune.records.dataset import read_dataset
    from edgeprune.records.files import write_bytes
    from edgeprune.records.model import ModelFiles
    from edgeprune.yolo.checkpoint import pack
    from edgeprune.yolo.data import make_view

    view = make_view(read_dataset(data), out / ".data") if data else None
    request = Request(
        model=model, image_size=(imgsz, imgsz), importance=importance, macs_ratio=macs_ratio,
        sparsity=sparsity, granularity=granularity,
        channel_ratio=1 - ratio if ratio else None, allocation=allocation, channel_multiple=channel_multiple, view=view,
        min_width=min(8, channel_multiple), max_group_ratio=max(0.8, ratio or 0.0), seed=seed,
    )  # fmt: skip
    parent, plan = prune_checkpoint(request, files=ModelFiles(out / "pruned.pt", out / "plan.json"))
    write_bytes(out / "parent.pt", pack(parent.model, parent.checkpoint, half=parent.half))
    if plan.zeros:
        console.print(f"{out}: {plan.sparsity:.1%} of the weights of {len(plan.zeros)} layers are zero")
        return
    console.print(
        f"{out}: {plan.pruning_ratio:.1%} of the channels removed, MACs {plan.macs_ratio:.1%}, "
        f"parameters {plan.parameters[1] / plan.parameters[0]:.1%} of the parent's"
    )


def explain(
    model: Annotated[Path, typer.Argument(help="Checkpoint (.pt), or a model YAML.")],
    group: Annotated[str | None, typer.Option("--group", help="One channel group by name, in full.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page that stands alone, instead.")] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="plan.json made for this model: what it cuts.")] = None,
    imgsz: Annotated[int, typer.Option(min=32, help="Pixels of the square input that MACs are counted at.")] = 640,
) -> None:
    """The model's channel groups: who is in them, what they cost, what is locked and why."""
    if group is not None and html is not None:
        raise PlanError("Give one of them.", expected="--group or --html", got="both")
    prune_plan = read_json(plan, PrunePlan, PlanError) if plan else None
    from edgeprune.report.explain import explain as explanation_of
    from edgeprune.report.tree import headline, show

    explanation = explanation_of(model, (imgsz, imgsz), prune_plan)
    if html is None:
        show(explanation, console, group)
        return
    from edgeprune.records.files import write_bytes
    from edgeprune.report.page import page

    write_bytes(html, page(explanation))
    console.print(headline(explanation))
    console.print(f"the page: {html}")


def apply(
    model: Annotated[Path, typer.Argument(help="The model that the plan was made for (parent.pt, or its YAML).")],
    plan: Annotated[Path, typer.Option("--plan", help="plan.json.")],
    out: Annotated[Path, typer.Option("--out", help="The checkpoint to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Of a YAML's random weights.")] = 0,
) -> None:
    """Carry a plan out again, to the bit."""
    from edgeprune.prune.make import replay

    done = replay(model, plan, out, seed)
    console.print(f"{out}: MACs {done.macs_ratio:.1%} of the parent's")
