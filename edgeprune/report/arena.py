"""The arena's leaderboard: on the terminal, and as a page. Pure from the record to markup.

Rules:
- Who isn't better than the control says so on its own line, in words.
- What was stopped, failed or refused is listed with its reason; nothing that ran is left out.
- The picture has one mark an entrant, at the mean of its seeds; those that matter most have their names on it, the
  others in their titles.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.records.arena import BASE, CONTROL, Arena, Run, Standing
from edgeprune.records.goals import short
from edgeprune.records.sweep import beats
from edgeprune.report import charts
from edgeprune.report.markup import Markup, tag
from edgeprune.report.quotable import emulated
from edgeprune.report.sheet import facts, figure, lead, legend, section, sheet, table, themes, warning
from edgeprune.report.strips import strips

KINDS = {
    "parent": "the parent", "chosen": "the winner", "other": "the control: random", "lost": "other entrants",
}  # fmt: skip
HEADINGS = ("entrant", "seeds", "mAP50-95", "spread", "speed", "p50 ms", "GMACs", "MB", "epochs", "hours")


def show(arena: Arena, console: Console) -> None:
    """Print the leaderboard, and what became of those that aren't on it."""
    wide = Console(file=console.file, width=max(console.width, 150), highlight=False)
    board = Table(title=_title(arena), title_justify="left", box=None, pad_edge=False)
    board.add_column(HEADINGS[0], no_wrap=True)
    for heading in HEADINGS[1:]:
        board.add_column(heading, justify="right", no_wrap=True)
    for standing in arena.standings:
        if standing.done:
            board.add_row(*map(escape, _cells(standing)))
    wide.print(board)
    for standing in arena.standings:
        told = filter(None, (*_remarks(standing), standing.against_control, standing.against_base))
        for sentence in (*told, *(f"seed {run.seed}: {_fate(run)}" for run in _unfinished(standing))):
            console.print(f"  {standing.entrant.name}: {sentence}", markup=False)
    console.print(f"  {_verdict(arena)}", markup=False)


def progress(runs: Sequence[Run]) -> str:
    """How the race stands, and how long it may still take."""
    count = {state: sum(run.state == state for run in runs) for state in ("done", "stopped", "failed", "running")}
    said = ", ".join(f"{number} {state}" for state, number in count.items() if number)
    to_come = sum(run.open for run in runs)
    ended = [run.hours for run in runs if run.state in {"done", "stopped"}]
    line = f"{len(runs) - to_come} of {len(runs)} runs decided" + (f" ({said})" if said else "")
    if to_come and ended:
        left = sum(ended) / len(ended) * to_come / max(1, count["running"])
        line += f"; about {_duration(left)} left" + (
            f" with {count['running']} at work" if count["running"] > 1 else ""
        )
    return line


def page(arena: Arena) -> bytes:
    """The page as UTF-8; the same record gives the same bytes."""
    title = _title(arena)
    spoiled = emulated(arena.environment)
    control = next((s for s in arena.standings if s.entrant.name == CONTROL), None)
    head = tag(
        "header", tag("h1", title), tag("p", _about(arena), class_="about"),
        tag("ul", tag("li", _verdict(arena)), control and _base_line(arena)),
        spoiled and warning("Not to be quoted", spoiled), themes(),
        class_=f"verdict {'yes' if arena.winner else 'none'}",
    )  # fmt: skip
    ranked = [s for s in arena.standings if s.done]
    body = [_picture(arena, ranked), _board(arena, ranked), _told(ranked), _removed(ranked)] if ranked else []
    return sheet(title, tag("main", head, body, _others(arena), _environment(arena)))


def _title(arena: Arena) -> str:
    ran = sum(bool(s.done) for s in arena.standings)
    return f"{arena.target}: {ran} of {len(arena.standings)} entrants at {short(arena.kind, arena.value)}"


def _about(arena: Arena) -> str:
    open_ = f" {arena.open} runs are still open." if arena.open else ""
    return (
        f"Study {arena.study}: all cut to {short(arena.kind, arena.value)}, trained {arena.epochs} epochs, "
        f"{arena.seeds} seed{'s' if arena.seeds > 1 else ''} each; mAP is the engine's on val.{open_}"
    )


def _verdict(arena: Arena) -> str:
    best = next((s for s in arena.standings if s.entrant.name == arena.winner), None)
    if best is None:
        return "no winner: nobody is whole and as fast as was asked"
    told = "; ".join(filter(None, (best.against_control, best.against_base)))
    return f"winner: {best.entrant.name}, mAP50-95 {_map(best)}" + (f"; {told}" if told else "")


def _base_line(arena: Arena) -> Markup | None:
    base = next((s for s in arena.standings if s.entrant.name == BASE and s.against_control), None)
    return tag("li", f"base: {base.against_control}") if base else None


def _map(standing: Standing) -> str:
    assert standing.map50_95 is not None
    return f"{standing.map50_95:.4f}" + (f" ± {standing.spread:.4f}" if standing.spread is not None else "")


def _cells(standing: Standing) -> tuple[str, ...]:
    s, speed = standing, standing.speed
    return (
        s.entrant.name, f"{len(s.done)}/{len(s.runs)}", f"{s.map50_95:.4f}",
        "" if s.spread is None else f"{s.spread:.4f}",
        f"{speed[0]:.2f} [{speed[1]:.2f}, {speed[2]:.2f}]" if speed else "",
        "" if s.latency_ms is None else f"{s.latency_ms:.2f}", f"{(s.macs or 0) / 1e9:.3f}",
        f"{(s.bytes or 0) / 1e6:.1f}", f"{s.entrant.epochs}", f"{s.hours:.2f}",
    )  # fmt: skip


def _remarks(standing: Standing) -> list[str]:
    """What an entrant's figures mean, in words."""
    said = []
    if standing.entrant.refused:
        said.append(f"refused: {standing.entrant.refused}")
    if standing.entrant.zeros is not None and standing.speed:
        low, high = standing.speed[1:]
        faster = (
            "the runtime is faster for them" if low > 1 else "the runtime is slower" if high < 1
            else "the runtime is no faster for them"
        )  # fmt: skip
        said.append(
            f"leaves zeros, {standing.entrant.zeros:.0%}, instead of cutting: {faster}, "
            f"{standing.speed[0]:.2f} times the parent's speed"
        )
    elif standing.fast_enough is False and standing.speed:
        said.append(f"not as fast as asked: {standing.speed[0]:.2f} times the parent's speed")
    if standing.done and not standing.whole:
        said.append(f"a mean of {len(standing.done)} of {len(standing.runs)} seeds, which flatters")
    if any(run.finish and run.raced is None for run in standing.runs):
        said.append("speed is of its own race with the parent, where it was built")
    return said


def _unfinished(standing: Standing) -> list[Run]:
    return [run for run in standing.runs if run.state != "done"]


def _fate(run: Run) -> str:
    return {"stopped": run.why, "failed": f"failed: {run.why}"}.get(run.state, run.state)


def _duration(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{max(1, minutes)} min"


def _picture(arena: Arena, ranked: Sequence[Standing]) -> Markup:
    """One mark an entrant: latency by way of the parent, mean mAP."""
    points, at = [], []
    for s in ranked:
        if s.speed is None or s.map50_95 is None:
            continue
        unit = arena.parent.row.latency_ms.p50 if arena.parent else 1.0
        ms, low, high = unit / s.speed[0], unit / s.speed[2], unit / s.speed[1]
        kind = "chosen" if s.entrant.name == arena.winner else "other" if s.entrant.name == CONTROL else "lost"
        points.append(
            charts.Point(s.entrant.name, kind, ms, (low, high), s.map50_95, f"mAP50-95 {_map(s)}, {ms:.2f} ms")
        )
        at.append((ms, s.map50_95))
    front = [p for p in at if not any(beats(o, p) for o in at)]
    named = {arena.winner, BASE, CONTROL}
    points = [
        p
        if p.label in named or (p.ms, p.map50_95) in front
        else charts.Point("", p.kind, p.ms, p.interval, p.map50_95, f"{p.label}: {p.said}")
        for p in points
    ]
    if arena.parent:
        row = arena.parent.row
        points.append(
            charts.Point(
                arena.parent.engine, "parent", row.latency_ms.p50, arena.parent.p50_interval_ms, row.map50_95,
                f"mAP50-95 {row.map50_95:.4f}, {row.latency_ms.p50:.2f} ms",
            )
        )  # fmt: skip
    kinds = {p.kind for p in points}
    return section(
        "race", "Latency and accuracy",
        figure(
            charts.both(lambda width: charts.pareto(points, None, width, front=front)),
            "One mark an entrant, at the mean of its seeds; bars are the widest ends of the intervals. Latency is the "
            "parent's times the ratio to the parent in the same heat"
            + ("." if arena.parent else "; no race was held here, so the parent's is 1.")
            + " The line is what no other entrant beats.",
            legend=legend({text: kind for kind, text in KINDS.items() if kind in kinds}),
        ),
    )  # fmt: skip


def _board(arena: Arena, ranked: Sequence[Standing]) -> Markup:
    rows = []
    for s in ranked:
        name, seeds, mean, spread, speed, *figures = _cells(s)
        ratio, _, interval = speed.partition(" ")
        rows.append(
            (
                (name, [tag("small", text) for text in _remarks(s)]), (mean, spread and tag("small", f"± {spread}")),
                (ratio, tag("small", interval)), *figures, seeds,
            )
        )  # fmt: skip
    kinds = ["chosen" if s.entrant.name == arena.winner else None for s in ranked]
    headings = ("entrant", "mAP50-95", "speed", *HEADINGS[5:], "seeds")
    return section(
        "board", "Leaderboard",
        lead(
            "Mean mAP over seeds and its standard deviation; speed is the parent's time : its own, with its 99 % "
            "interval; epochs are all that were trained, with those that a method adds before its cut."
        ),
        table(f"{arena.target} at {short(arena.kind, arena.value)}", headings, rows, kinds=kinds, words=(0,)),
    )  # fmt: skip


def _told(ranked: Sequence[Standing]) -> Markup:
    rows = [(s.entrant.name, s.against_control, s.against_base) for s in ranked]
    return section(
        "told", "Better than random, better than base?",
        lead(
            "Better or worse is a difference of means over the spread: the standard deviation of the difference of two "
            "single runs, the root of both variances over seeds."
        ),
        table("Each against the two", ("entrant", "against random", "against base"), rows, words=(0, 1, 2)),
    )  # fmt: skip


def _removed(ranked: Sequence[Standing]) -> Markup | None:
    shares = {s.entrant.name: f.layers for s in ranked for f in [s.done[0].finish] if f and f.layers}
    if not shares:
        return None
    layers = [share.layer for share in next(iter(shares.values()))]
    shares = {name: found for name, found in shares.items() if [share.layer for share in found] == layers}
    return section(
        "removed", "What each removed",
        figure(
            charts.both(lambda width: strips(shares, width)),
            "One strip an entrant (its first seed), one cell a layer in the model's order; the fuller, the more of the "
            "layer's weights are gone, cut or zero. Numbers are the model's blocks.",
        ),
    )  # fmt: skip


def _others(arena: Arena) -> Markup | None:
    rows = [(s.entrant.name, "", f"refused: {s.entrant.refused}") for s in arena.standings if s.entrant.refused]
    rows += [(s.entrant.name, f"{run.seed}", _fate(run)) for s in arena.standings for run in _unfinished(s)]
    if not rows:
        return None
    return section(
        "others", "Stopped, failed, refused",
        table("Runs without a result", ("entrant", "seed", "why"), rows, words=(0, 2)),
    )  # fmt: skip


def _environment(arena: Arena) -> Markup:
    base = {key: str(value) for key, value in arena.base.items() if key != "goal" and value not in (None, [], "")}
    return section(
        "environment", "Environment",
        facts({**arena.environment, **{f"{k}'s sha256": v[:12] for k, v in arena.inputs.items()}}),
        tag("details", tag("summary", "The base recipe"), facts(base)),
    )  # fmt: skip
