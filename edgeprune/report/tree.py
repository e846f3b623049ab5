"""An explanation on the terminal: a tree of blocks and their channel groups, or one group in full.

Rules:
- A group stands under the block that makes it, with everyone who is in it. Normalisation goes with the
  layer that it follows and isn't listed; `--group` lists all.
- Names lose the block's path inside that block.
- Texts are built, never parsed: a group's name holds brackets.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from edgeprune.errors import PlanError
from edgeprune.report.explanation import ExplainedBlock, ExplainedGroup, ExplainedLayer, Explanation

#: Columns where the terminal's width isn't known (a file, a pipe).
WIDTH = 120


def show(explanation: Explanation, console: Console, group: str | None = None) -> None:
    """Print the tree, or one channel group.

    Raises:
        PlanError: No channel group has that name.
    """
    width = console.width if console.is_terminal else max(console.width, WIDTH)
    what = tree(explanation) if group is None else one_group(explanation, group)
    console.print(what, width=width, soft_wrap=False, highlight=False)


def tree(explanation: Explanation) -> Tree:
    """The whole model, by block."""
    root = Tree(headline(explanation), guide_style="dim")
    by_block: dict[str, list[int]] = {}
    for index, group in enumerate(explanation.groups):
        by_block.setdefault(group.block, []).append(index)
    for block in explanation.blocks:
        if block.kind in {"image", "output"}:
            continue
        branch = root.add(_block_line(explanation, block))
        if by_block.get(block.name):
            branch.add(_groups_of(explanation, block, by_block[block.name]))
    return root


def headline(explanation: Explanation) -> Text:
    """Totals, in three lines."""
    shape = "×".join(map(str, explanation.input_shape[1:]))
    locked = sum(1 for g in explanation.groups if g.locked)
    lines = Text.assemble(
        (explanation.model, "bold"), f" at {shape}: {_giga(explanation.macs, explanation.planned)}, ",
        _mega(explanation.parameters, explanation.planned), "\n",
        f"{len(explanation.groups)} channel groups with {_arrow(explanation.channels, explanation.planned)} channels, "
        f"{locked} of the groups locked; {explanation.locked_macs:.1%} of the MACs lie in locked layers",
    )  # fmt: skip
    if explanation.planned:
        said = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in explanation.how.items())
        lines.append(f"\nplan: {said}; MACs {explanation.macs[1] / explanation.macs[0]:.1%} of the parent's", "cyan")
    return lines


def one_group(explanation: Explanation, name: str) -> Tree:
    """Everything about one channel group.

    Raises:
        PlanError: No channel group has that name; the nearest names are the next step.
    """
    by_name = {group.name: group for group in explanation.groups}
    group = by_name.get(name)
    if group is None:
        near = [known for known in by_name if known.startswith(name)][:3]
        near = near or difflib.get_close_matches(name, by_name, n=3, cutoff=0.4)
        raise PlanError(
            "The model has no channel group of that name.", where="--group", got=name,
            expected=f"one of {len(by_name)} names that `edgeprune explain MODEL` prints",
            next_step=f"did you mean {' or '.join(near)}?" if near else "print the tree and copy a name",
        )  # fmt: skip
    root = Tree(Text.assemble((group.name, "bold"), f"  {group.size} channels"), guide_style="dim")
    root.add(_carried(explanation, group))
    if group.locked:
        root.add(Text(f"locked: {group.locked}", "yellow"))
    if explanation.planned:
        kept = f"{group.after} of {group.size} channels stay: {_ranges(group.keep)}"
        root.add(Text(f"plan: {kept}" if group.after < group.size else f"plan: all {group.size} stay", "cyan"))
    who = root.add("who is in it")
    who.add(_members_of(explanation, group))
    cluster = explanation.clusters[group.cluster]
    if len(cluster.groups) > 1:
        tied = root.add("shrinks together with")
        for index, step in zip(cluster.groups, cluster.step, strict=True):
            mate = explanation.groups[index]
            if mate is not group:
                width = _arrow((mate.size, mate.after), explanation.planned)
                tied.add(Text.assemble((mate.name, "bold"), f"  {width} channels, {step} a step"))
        reasons = root.add("because")
        for why in cluster.why:
            reasons.add(Text(why))
        saved = f"{_count(cluster.macs_per_step)} MACs, {_count(cluster.parameters_per_step)} parameters"
        root.add(Text(f"one step of all of them saves {saved}"))
    return root


# --- parts --------------------------------------------------------------------------------------------


def _block_line(explanation: Explanation, block: ExplainedBlock) -> Text:
    shapes = "×".join(map(str, block.shapes[0])) if block.shapes else "nothing"
    line = Text.assemble((block.name, "bold"), f"  {block.class_}  ", (f"→ {shapes}", "dim"))
    if block.macs[0]:
        share = block.macs[0] / explanation.macs[0]
        line.append(f"  {_count(block.macs[0])} MACs, {share:.1%}")
        if explanation.planned:
            line.append(f"  → {_count(block.macs[1])}", "cyan")
    return line


def _groups_of(explanation: Explanation, block: ExplainedBlock, indices: Sequence[int]) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=False)
    table.add_column(overflow="fold", min_width=20)
    for _ in range(3 if explanation.planned else 2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for index in indices:
        group = explanation.groups[index]
        cells = [Text(_short(group.name, block.name)), Text(f"{group.size} ch")]
        if explanation.planned:
            cells.append(Text(f"→ {group.after}", "cyan" if group.after < group.size else "dim"))
        cells.append(Text(f"{_count(group.macs_per_channel)} MACs/ch", "dim"))
        table.add_row(*cells, _story(explanation, group, block.name))
    return table


def _story(explanation: Explanation, group: ExplainedGroup, block: str) -> Text:
    """Who makes the channels beside the layer that names them, and who reads them."""
    made: list[str] = []
    read: list[str] = []
    for member in group.members:
        if explanation.layers[member.layer].kind != "batch_norm" and member.layer != group.name.partition("[")[0]:
            (read if member.side == "in" else made).append(_short(member.layer, block))
    parts = [f"with {', '.join(_capped(made, 4))}"] if made else []
    parts += [f"read by {', '.join(_capped(read, 4))}"] if read else []
    story = Text("; ".join(parts) or "read by no layer")
    mates = [explanation.groups[g].name for g in explanation.clusters[group.cluster].groups]
    mates = [_short(name, block) for name in mates if name != group.name]
    if group.locked:
        story.append(f"\nlocked: {group.locked}", "yellow")
    elif mates:
        story.append(f"; tied to {', '.join(_capped(mates, 2))}", "magenta")
    return story


def _members_of(explanation: Explanation, group: ExplainedGroup) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    for _ in range(3):
        table.add_column()
    for member in group.members:
        layer = explanation.layers[member.layer]
        widths = layer.widths_in if member.side == "in" else layer.widths_out
        table.add_row(
            Text(member.layer), Text(f"{layer.kind} {layer.detail}".strip(), "dim"),
            Text("reads" if member.side == "in" else "makes" if _makes(layer) else "carries"),
            Text(f"{_ranges(member.positions)} of {_arrow(widths, explanation.planned)}"),
        )  # fmt: skip
    return table


def _makes(layer: ExplainedLayer) -> bool:
    """Whether a layer's outputs are channels of its own: normalisation and depthwise convolutions hand theirs on."""
    return layer.kind not in {"batch_norm", "parameter"} and "depthwise" not in layer.detail


def _carried(explanation: Explanation, group: ExplainedGroup) -> Text:
    share = group.macs_per_channel / explanation.macs[0] if explanation.macs[0] else 0.0
    return Text(
        f"one channel carries {_count(group.macs_per_channel)} MACs ({share:.3%}) and "
        f"{_count(group.parameters_per_channel)} parameters"
    )


def _short(name: str, block: str) -> str:
    return name.removeprefix(f"{block}.")


def _capped(words: Sequence[str], most: int) -> Iterable[str]:
    return words if len(words) <= most + 1 else [*words[:most], f"{len(words) - most} more"]


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{start}:{stop}" if stop > start + 1 else str(start) for start, stop in ranges)


def _arrow(change: tuple[float, float], planned: bool) -> str:
    return f"{change[0]:.0f} → {change[1]:.0f}" if planned and change[0] != change[1] else f"{change[0]:.0f}"


def _giga(macs: tuple[float, float], planned: bool) -> str:
    return f"{macs[0] / 1e9:.3f} → {macs[1] / 1e9:.3f} GMACs" if planned else f"{macs[0] / 1e9:.3f} GMACs"


def _mega(count: tuple[float, float], planned: bool) -> str:
    text = f"{count[0] / 1e6:.3f} → {count[1] / 1e6:.3f}" if planned else f"{count[0] / 1e6:.3f}"
    return f"{text} M parameters"


def _count(value: float) -> str:
    """Three figures and a prefix: 12.3 M."""
    for limit, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{prefix}"
    return f"{value:.3g}"
