"""Runs beside each other: builds and benchmarks, of one device or of many. What can't be compared is said.

Rules:
- A latency stands with its run, device, engine and artifact hash, wherever it stands.
- Ratios are a run's own: engines of one run took turns, runs didn't. Nothing here divides one run by another.
- mAP on different data sets, and latencies of different things (a race's images, the queries of a load, in old reports
  inference alone), go into different tables, with a sentence.
- Figures that may not be quoted are shown as such.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgeprune.errors import DataError, EdgepruneError, ProfileError
from edgeprune.records import Benchmark, Latency, Report, read_json
from edgeprune.report.build_page import name_of
from edgeprune.report.quotable import doubts, emulated

ALONE = "inference alone"
WHOLE = "image to boxes, letterbox and decoding included"
NOTES = {"chosen": "the build", "parent": "the parent"}
#: Columns that the table may take: a hash that is cut off names nothing.
WIDTH = 160


@dataclass(frozen=True)
class Entry:
    """One engine of one run.

    Attributes:
        engine: As its run calls it.
        part: parent, chosen or lost; void where `doubts` has reasons.
        artifact: First digits of what was loaded's SHA-256.
        interval: Of p50, milliseconds, where the run has one.
        doubts: Why the figures may not be quoted.
    """

    engine: str
    part: str
    artifact: str
    latency_ms: Latency
    interval: tuple[float, float] | None
    map50_95: float
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A report.json or a benchmark.json.

    Attributes:
        key: A letter.
        target: Its name.
        device: Processor, cores and architecture.
        measures: What a latency is of.
        data: What mAP was scored on: runs with the same are comparable.
        model: SHA-256 of the parent, where the run says.
    """

    key: str
    file: Path
    target: str
    device: str
    runtime: str
    measures: str
    data: str
    model: str | None
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        return f"{self.key}: {self.target} on {self.device}"


def gather(given: Sequence[str], out: Path) -> list[Run]:
    """Read what was named.

    Args:
        given: Names of targets that were built in `out`, folders of builds, report.json or benchmark.json files.
        out: Folder that builds go into.

    Raises:
        ProfileError: There is no such run, or only one.
        EdgepruneError: A file that can't be read, or is neither.
    """
    found = list(dict.fromkeys(file.resolve() for name in given for file in files_of(name, out)))
    if len(found) < 2:
        raise ProfileError(
            "A comparison needs two runs.", where=" ".join(given),
            expected="targets, folders, report.json, benchmark.json", got=", ".join(map(str, found)),
        )  # fmt: skip
    return [_read(file, _letter(number)) for number, file in enumerate(found)]


def files_of(name: str, out: Path) -> list[Path]:
    """The files of one run: a file itself, those of a folder, or those of a target that was built in `out`."""
    if Path(name).is_file() and Path(name).suffix == ".json":
        return [Path(name)]
    for folder in (Path(name), out / name, out / Path(name).stem):
        found = [folder / file for file in ("report.json", "benchmark.json") if (folder / file).is_file()]
        if found:
            return found
    raise ProfileError(
        "There is no report of this target.", where=out / Path(name).stem / "report.json",
        next_step=f"make {Path(name).stem} MODEL=best.pt DATA=data.yaml",
    )  # fmt: skip


def tables(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """(what latency is of, what mAP is of) -> the runs that can stand in one table."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.measures, run.data), []).append(run)
    return found


def remarks(runs: Sequence[Run]) -> list[str]:
    """What can't be compared, and why."""
    said = []
    if len({run.data for run in runs}) > 1:
        sets = "; ".join(
            f"{data}: {', '.join(r.key for r in runs if r.data == data)}" for data in _distinct(runs, "data")
        )
        said.append(f"mAP was scored on different data sets and isn't comparable between them ({sets})")
    if len({run.measures for run in runs}) > 1:
        kinds = "; ".join(
            f"{kind}: {', '.join(r.key for r in runs if r.measures == kind)}" for kind in _distinct(runs, "measures")
        )
        said.append(f"latencies are of different things and aren't set against each other ({kinds})")
    if len({run.device for run in runs}) > 1:
        said.append("the devices differ: a latency is its device's, and no ratio between runs is given")
    else:
        said.append(
            "these are runs of their own: what else the device did differed, and no ratio between runs is given"
        )
    models = [model for model in _distinct(runs, "model") if model]
    if len(models) > 1:
        sets = "; ".join(f"{model[:12]}: {', '.join(r.key for r in runs if r.model == model)}" for model in models)
        said.append(f"the parents are different models ({sets})")
    return said


def show(runs: Sequence[Run], console: Console) -> None:
    """Print the tables, and what can't be compared."""
    wide = Console(file=console.file, width=max(console.width, WIDTH), highlight=False)
    for run in runs:
        console.print(f"{escape(run.name)}, {escape(run.runtime)}: {escape(str(run.file))}")
    for (measures, data), some in tables(runs).items():
        table = Table(title=f"\n{measures}; mAP on {escape(data)}", title_justify="left", box=None, pad_edge=False)
        for heading in ("run", "engine", "artifact"):
            table.add_column(heading, no_wrap=True)
        for heading in ("mAP50-95", "p50 ms", "p90", "p99", "samples"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for run in some:
            for entry in run.entries:
                q, note = entry.latency_ms, "not to be quoted" if entry.doubts else NOTES.get(entry.part, "")
                table.add_row(
                    f"{run.key} {escape(run.target)}", entry.engine, entry.artifact, f"{entry.map50_95:.4f}",
                    f"{q.p50:.2f}", f"{q.p90:.2f}", f"{q.p99:.2f}", str(q.samples), note,
                )  # fmt: skip
        wide.print(table)
    console.print()
    for key, why in quarrels(runs):
        console.print(f"  [bold red]{key} may not be quoted[/]: {escape(why)}")
    for sentence in remarks(runs):
        console.print(f"  {escape(sentence)}")


def quarrels(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(run, why) of figures that may not be quoted."""
    return [(run.key, why) for run in runs for why in dict.fromkeys(w for e in run.entries for w in e.doubts)]


def _read(file: Path, key: str) -> Run:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EdgepruneError("The file can't be read as JSON.", where=file, got=str(error)) from error
    if isinstance(content, dict) and "verdict" in content:
        return _of_report(read_json(file, Report, EdgepruneError), file, key)
    if isinstance(content, dict) and "bundle_sha256" in content:
        return _of_benchmark(read_json(file, Benchmark, EdgepruneError), file, key)
    raise EdgepruneError("The file is no run.", where=file, expected="a report.json or a benchmark.json")


def _of_report(report: Report, file: Path, key: str) -> Run:
    known = {c.engine: c for c in report.candidates}
    spoiled = emulated(report.environment)

    def entries() -> Iterator[Entry]:
        pair = report.verdict.comparison
        for row in report.rows:
            found, name = known.get(name_of(row)), name_of(row)
            part = {pair.parent: "parent", pair.build: "chosen"}.get(name, "lost")
            yield Entry(
                name, "void" if spoiled else part, found.artifact_sha256[:12] if found else "not written down",
                row.latency_ms, found.p50_interval_ms if found else None, row.map50_95, spoiled,
            )  # fmt: skip

    data = report.inputs.get("data")
    return Run(
        key, file, report.target, device_of(report.environment), report.rows[0].runtime,
        ALONE if any(row.parts is None for row in report.rows) else WHOLE,
        f"data set {data[:12]}" if data else f"the data set of {file}, which doesn't say which",
        report.inputs.get("model"), tuple(entries()),
    )  # fmt: skip


def _of_benchmark(found: Benchmark, file: Path, key: str) -> Run:
    result, spoiled = found.run.result, doubts(found)
    if found.accuracy is None:
        raise DataError(
            "A camera's frames have no boxes, so there is no accuracy to compare.", where=file,
            expected="a benchmark on a data set's images",
        )  # fmt: skip
    size = result.samples_per_query
    entry = Entry(
        f"bundle {found.request.precision}", "void" if spoiled else "chosen", found.run.engine_sha256[:12],
        result.latency_ms, None, found.accuracy.map50_95, spoiled,
    )  # fmt: skip
    return Run(
        key, file, found.target, device_of(found.run.environment), found.run.runtime,
        f"{result.scenario}, a query of {size} image{'s' if size > 1 else ''}, letterbox and decoding included",
        f"{found.accuracy.images} images of {found.data}", None, (entry,),
    )  # fmt: skip


def device_of(environment: dict[str, str]) -> str:
    """What a run was measured on, in a line."""
    cores = environment.get("cores", "?")
    return f"{environment.get('cpu', 'unknown processor')}, {cores} cores, {environment.get('machine', 'unknown')}"


def _distinct(runs: Sequence[Run], field: str) -> list[str]:
    return list(dict.fromkeys(getattr(run, field) for run in runs))


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"R{number + 1}"
