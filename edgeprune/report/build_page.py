"""report.html: a build as one page, from report.json and what lies beside it.

Rules:
- The verdict comes first. Every figure is report.json's (under load: benchmark.json's); nothing is computed here but
  ratios and differences of those.
- Text from outside (class names, paths, sensors) goes through `markup.tag` and stays text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from edgeprune.records import Benchmark, Record, Report, Row
from edgeprune.records.goals import kind_and_value, words
from edgeprune.report import charts
from edgeprune.report.load_page import under_load
from edgeprune.report.markup import Markup, tag
from edgeprune.report.quotable import emulated
from edgeprune.report.sheet import facts, figure, folded, lead, legend, section, sheet, table, themes, warning
from edgeprune.report.views import views

KINDS = {"parent": "the parent's best", "chosen": "the build", "lost": "lost"}


def page(
    report: Report, pictures: Mapping[str, bytes], benchmark: Benchmark | None = None, why_not: str | None = None,
    curves: Sequence[Markup | None] = (),
) -> bytes:  # fmt: skip
    """The page as UTF-8; the same report gives the same bytes.

    Args:
        pictures: `Sample.picture` -> JPEG; those that are missing are said to be.
        benchmark: Of this build's bundle.
        why_not: Why a benchmark that is there isn't this bundle's.
        curves: Sections of the sweeps that lie beside it.
    """
    word = "accepted" if report.verdict.accepted else "rejected"
    return sheet(
        f"{report.target}: {word}",
        tag(
            "main", _verdict(report), _key_figures(report), _plane(report), curves, _candidates(report),
            _widths(report), _latency(report), under_load(benchmark, report, why_not), views(report, pictures),
            _parity(report), _environment(report), _reproduce(report),
        ),
    )  # fmt: skip


def name_of(row: Row) -> str:
    """The engine that a row is of."""
    return f"{row.variant} {row.precision}"


def _pair(report: Report) -> tuple[Row, Row]:
    rows = {name_of(row): row for row in report.rows}
    return rows[report.verdict.comparison.parent], rows[report.verdict.comparison.build]


def _verdict(report: Report) -> Markup:
    verdict, result = report.verdict, report.verdict.comparison
    _, build = _pair(report)
    speed = f"{1 / result.ratio:.2f} times the parent's speed"
    if not result.faster:
        speed = f"not faster than the parent beyond the interval ({1 / result.ratio:.2f} times its speed)"
    moved = "mAP50-95 as it was"
    if verdict.map_drop:
        moved = f"mAP50-95 {abs(verdict.map_drop):.4f} {'lower' if verdict.map_drop > 0 else 'higher'}"
    if not verdict.accepted and report.origin:
        agreed = report.origin.recipe.goal.max_map_drop
        if verdict.map_drop > agreed + 1e-9:
            moved = f"{'but' if result.faster else 'and'} {moved} where {agreed:g} is agreed"
    environment = report.environment
    spoiled = emulated(environment)
    return tag(
        "header",
        tag("h1", tag("b", "Accepted:" if verdict.accepted else "Rejected:"), f" {speed}, {moved}"),
        tag(
            "p",
            f"{report.target}, {build.runtime} on {environment.get('cpu', 'an unknown processor')}, "
            f"{environment.get('cores', '?')} cores. {result.build} takes {result.ratio:.3f} of the time of "
            f"{result.parent} ({result.confidence:.0%} interval {result.low:.3f} to {result.high:.3f}, {result.pairs} "
            f"pairs of interleaved blocks of one run).",
            class_="about",
        ),
        tag("ul", [tag("li", reason) for reason in verdict.reasons]),
        _instead(report),
        spoiled and warning("Not to be quoted", spoiled),
        themes(),
        class_=f"verdict {'yes' if verdict.accepted else 'no'}",
    )  # fmt: skip


def _instead(report: Report) -> Markup | None:
    """What a rejected build gives: the best plan that does hold, and what to ask for next."""
    offer, advice = report.verdict.offer, report.verdict.try_next
    if offer is None and advice is None:
        return None
    q = offer and offer.row.latency_ms
    return tag(
        "dl",
        offer and q and (
            tag("dt", "What does hold"),
            tag(
                "dd", tag("b", offer.folder), f", {words(*kind_and_value(offer.goal))}: mAP50-95 "
                f"{offer.row.map50_95:.4f}, p50 {q.p50:.2f} ms ({offer.row.precision}). It is {offer.why}. Bundle: ",
                tag("code", f"{offer.folder}/bundle"),
            ),
        ),
        advice and (tag("dt", "What to try"), tag("dd", advice)),
        class_="reasons",
    )  # fmt: skip


def _key_figures(report: Report) -> Markup:
    parent, build = _pair(report)
    cold = {c.engine: c.cold_start_ms for c in report.candidates}
    pairs = {
        "mAP50-95": (parent.map50_95, build.map50_95, ".4f", ""),
        "mAP50": (parent.map50, build.map50, ".4f", ""),
        "latency p50": (parent.latency_ms.p50, build.latency_ms.p50, ".2f", " ms"),
        "latency p90": (parent.latency_ms.p90, build.latency_ms.p90, ".2f", " ms"),
        "latency p99": (parent.latency_ms.p99, build.latency_ms.p99, ".2f", " ms"),
        **({"cold start": (cold[name_of(parent)], cold[name_of(build)], ".0f", " ms")} if cold else {}),
        "multiply-accumulates": (parent.macs / 1e9, build.macs / 1e9, ".3f", " G"),
        "parameters": (parent.parameters / 1e6, build.parameters / 1e6, ".2f", " M"),
        "engine's file": (parent.bytes / 1e6, build.bytes / 1e6, ".1f", " MB"),
    }
    tiles = [
        tag(
            "div", tag("dt", name),
            tag(
                "dd", tag("span", f"{before:{form}} → "), f"{after:{form}}{unit}",
                tag("small", _change(name, before, after)),
            ),
        )
        for name, (before, after, form, unit) in pairs.items()
    ]  # fmt: skip
    return section(
        "figures", "Key figures",
        lead(f"{name_of(parent)} → {name_of(build)}. {_what(parent)}{_shares(parent, build)}"),
        tag("dl", tiles, class_="tiles"),
    )  # fmt: skip


def _what(row: Row) -> str:
    if row.parts is None:
        return "Latency is inference alone, one image at a time."
    return "Latency is one image at a time, from its pixels in memory to boxes: letterbox, engine, decoding."


def _shares(*rows: Row) -> str:
    """What the time of each went into."""
    found = [
        f"{row.parts.preprocess_ms:.2f} + {row.parts.inference_ms:.2f} + {row.parts.postprocess_ms:.2f} ms"
        for row in rows if row.parts is not None
    ]  # fmt: skip
    return f" Medians of these three: {' → '.join(found)}." if found else ""


def _change(name: str, before: float, after: float) -> str:
    change = f"{after - before:+.4f}" if name.startswith("mAP") or not before else f"{after / before - 1:+.1%}"
    return change.replace("-", "−")


def _plane(report: Report) -> Markup:
    parent, _ = _pair(report)
    known = {c.engine: c for c in report.candidates}
    points = [
        charts.Point(
            name_of(row), known[name_of(row)].part if name_of(row) in known else "lost", row.latency_ms.p50,
            known[name_of(row)].p50_interval_ms if name_of(row) in known else None, row.map50_95,
            f"p50 {row.latency_ms.p50:.2f} ms, mAP50-95 {row.map50_95:.4f}",
        )
        for row in report.rows
    ]  # fmt: skip
    agreed = parent.map50_95 - report.origin.recipe.goal.max_map_drop if report.origin else None
    kinds = {p.kind for p in points}
    return section(
        "plane", "Latency and accuracy",
        figure(
            charts.both(lambda width: charts.pareto(points, agreed, width)),
            f"Every engine that was raced. Bars are the {report.verdict.comparison.confidence:.0%} interval of p50; "
            "where none is seen it is narrower than its mark.",
            legend=legend({text: kind for kind, text in KINDS.items() if kind in kinds}),
        ),
    )  # fmt: skip


def _candidates(report: Report) -> Markup:
    known = {c.engine: c for c in report.candidates}
    rows, kinds = [], []
    for row in report.rows:
        found, q = known.get(name_of(row)), row.latency_ms
        low, high = found.p50_interval_ms if found else (q.p50, q.p50)
        rows.append(
            (
                name_of(row), f"{row.map50_95:.4f}", f"{row.map50:.4f}",
                (f"{q.p50:.2f}", found and tag("small", f"{low:.2f} to {high:.2f}")), f"{q.p90:.2f}", f"{q.p99:.2f}",
                q.samples, f"{row.bytes / 1e6:.1f}", tag("code", found.artifact_sha256[:12]) if found else "",
            )
        )  # fmt: skip
        kinds.append(found.part if found else None)
    headings = ("engine", "mAP50-95", "mAP50", "p50 ms", "p90", "p99", "samples", "MB", "sha256")
    became = [(tag("dt", c.engine), tag("dd", c.why)) for c in report.candidates]
    became += [
        (tag("dt", name), tag("dd", f"not raced: {why.strip()}"))
        for name, _, why in (sentence.partition(":") for sentence in report.left_out)
    ]
    return section(
        "candidates", "Candidates",
        table(f"Raced on {report.target}, in one run", headings, rows, kinds=kinds),
        became and (tag("h3", "What became of them"), tag("dl", became, class_="reasons")),
        _tuned(report),
        report.notes and (tag("h3", "Found on the way"), tag("ul", [tag("li", note) for note in report.notes])),
    )  # fmt: skip


def _tuned(report: Report) -> Markup | None:
    """Forms and settings that were raced for each engine: the chosen ones first, then those that came furthest."""
    if not report.tuned:
        return None
    rows = [
        (
            c.engine, c.form.words(), c.settings.words(), f"{c.latency_ms.p50:.2f}", f"{c.latency_ms.p90:.2f}",
            "chosen" if c.chosen else (f"{c.ratio:.2f}", tag("small", f"{c.low:.2f} to {c.high:.2f}")),
            c.rung, c.rounds,
        )
        for c in report.tuned
    ]  # fmt: skip
    return folded(
        f"All {len(rows)} forms and settings that were raced before",
        lead(
            "Each engine's own, by successive halving: the slower half fell in every rung. Times are those of the last "
            "rung that a candidate ran in, set against that rung's winner."
        ),
        table(
            "Forms and settings", ("engine", "form", "settings", "p50 ms", "p90", "of the winner's", "rung", "rounds"),
            rows, kinds=["chosen" if c.chosen else "lost" for c in report.tuned], words=(1, 2),
        ),
    )  # fmt: skip


def _widths(report: Report) -> Markup | None:
    widths = report.widths
    if not widths:
        return None
    kept = sum(w.build for w in widths) / sum(w.parent for w in widths)
    rows = [(tag("code", w.layer), w.parent, w.build, f"{w.build / w.parent:.0%}") for w in widths]
    return section(
        "widths", "Widths",
        lead(f"Output channels of every layer: {kept:.0%} of them all stay."),
        figure(
            charts.both(lambda width: charts.silhouette(widths, width)),
            "Pale: the parent's channels; full: what the build kept of them.",
        ),
        folded(f"All {len(widths)} layers", table("Output channels", ("layer", "parent", "build", "stay"), rows)),
    )  # fmt: skip


def _latency(report: Report) -> Markup | None:
    picture = report.latencies
    if picture is None:
        return None
    parent, build = _pair(report)
    parts = {c.engine: str(c.part) for c in report.candidates}
    shown = {
        name_of(row): (kind, row.latency_ms) for row, kind in ((parent, "parent"), (build, "chosen"))
        if name_of(row) in picture.counts
    }  # fmt: skip
    kinds = {b.engine: parts.get(b.engine, "lost") for b in picture.blocks}
    texts = {engine: kind for engine, kind in kinds.items() if kind != "lost"}
    texts |= {"others": "lost"} if "lost" in kinds.values() else {}
    return section(
        "latency", "Latency of the race",
        lead("Every sample is counted; none was dropped. Both axes are logarithmic, so that a tail shows."),
        figure(charts.both(lambda width: charts.histogram(picture, shown, width))),
        tag("h3", "Over time"),
        figure(
            charts.both(lambda width: charts.race(picture.blocks, kinds, width)),
            "A dot is a block's p50, its line goes up to p90. All engines take turns in shuffled order, so that what "
            "the machine does falls on all alike.",
            legend=legend(texts),
        ),
    )  # fmt: skip


def _parity(report: Report) -> Markup | None:
    if not report.parity:
        return None
    rows = [
        (
            parity.engine, tag("code", tensor.tensor), f"{tensor.max_abs:.2g}", f"{tensor.scale:.3g}",
            f"{tensor.max_abs / max(tensor.scale, 1e-12):.1e}", f"{tensor.tolerance:.1e}",
            "holds" if tensor.holds else "does NOT hold",
        )
        for parity in report.parity
        for tensor in parity.tensors
    ]  # fmt: skip
    headings = ("engine", "tensor", "largest error", "largest value", "relative", "allowed", "")
    drift = [f"{p.engine} drifts first at {p.first_drift}" for p in report.parity if p.first_drift]
    return section(
        "parity", "The same numbers as in training",
        lead("Every output of every engine against torch; INT8 against its own rounding, step by step."),
        table(f"On {report.parity[0].images} images", headings, rows, words=(1,)),
        drift and tag("ul", [tag("li", text) for text in drift]),
    )  # fmt: skip


def _environment(report: Report) -> Markup:
    content: dict[str, object] = dict(report.environment)
    if report.origin:
        content["input"] = " × ".join(map(str, report.origin.target.input_shape))
        for edge in report.origin.recipe.imgsz:
            content["the build's input"] = f"{edge} × {edge}"
        content["scored on"] = f"{report.origin.val_images} images of val"
    content |= {"threads": report.candidates[0].threads} if report.candidates else {}
    return section("environment", "Environment", facts(content))


def _reproduce(report: Report) -> Markup:
    rows = [(name, tag("code", value, class_="hash")) for name, value in sorted(report.inputs.items())]
    hashes = table("SHA-256 of what went in", ("input", "sha256"), rows, words=(1,)) if rows else None
    origin = report.origin
    if origin is None:
        return section("reproduce", "How to reproduce", hashes)
    return section(
        "reproduce", "How to reproduce",
        lead("With the files that have these hashes, and the recipe and target below in files of their own:"),
        tag("pre", tag("code", origin.command)),
        hashes,
        folded("recipe.yaml", tag("pre", tag("code", _yaml(origin.recipe)))),
        folded(f"{report.target}.yaml", tag("pre", tag("code", _yaml(origin.target)))),
    )  # fmt: skip


def _yaml(record: Record) -> str:
    text: str = yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
