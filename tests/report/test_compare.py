"""`edgeprune report A B`: runs beside each other, each with its device and artifact; what can't be compared is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import EdgepruneError, ProfileError
from edgeprune.records import Benchmark, Load, Report, write_json
from edgeprune.records.measurement import Parts
from edgeprune.report.compare import gather, quarrels, remarks, tables
from edgeprune.report.compare_page import page
from tests.conftest import ROOT
from tests.report.builds import Built, build
from tests.report.conftest import Explained, Tabs
from tests.report.look import CONTRAST, OVERLAPS


@pytest.fixture
def runs(tmp_path: Path, accepted: Built) -> dict[str, Path]:
    """Folders of builds under `tmp_path`/build: the same on two devices, and one on another data set."""
    arm = {"machine": "aarch64", "cpu": "Raspberry Pi 5 <Model B>", "cores": "4"}
    changes: dict[str, dict[str, Any]] = {
        "here": {}, "board": {"environment": arm, "target": "pi"},
        "other-data": {"inputs": accepted.report.inputs | {"data": "9" * 64}},
    }  # fmt: skip
    out = tmp_path / "build"
    for name, change in changes.items():
        write_json(out / name / "report.json", accepted.report.model_copy(update=change))
    return {name: out / name for name in changes}


def edgeprune(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgeprune", "report", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"}, timeout=120,
    )  # fmt: skip


def test_devices_stand_beside_each_other_and_no_ratio_is_made_of_them(
    runs: dict[str, Path], accepted: Built, tmp_path: Path
) -> None:  # fmt: skip
    done = edgeprune("here", "board", "--out", tmp_path / "build", "--html", tmp_path / "both.html")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for candidate, row in zip(accepted.report.candidates, accepted.report.rows, strict=True):
        for run in ("A colours", "B pi"):
            line = next(text for text in lines if text.startswith(run) and f" {candidate.engine} " in text)
            assert candidate.artifact_sha256[:12] in line
            assert f" {row.latency_ms.p50:.2f} " in line
    assert "B: pi on Raspberry Pi 5 <Model B>, 4 cores, aarch64" in done.stdout
    assert "the devices differ" in done.stdout
    assert (tmp_path / "both.html").stat().st_size < 500_000
    assert not (runs["here"] / "report.html").exists()  # to compare is to read


def test_different_data_sets_and_models_are_kept_apart(runs: dict[str, Path], accepted: Built) -> None:
    found = gather([str(runs["here"]), str(runs["other-data"]), str(runs["board"])], Path("nowhere"))
    assert [[run.key for run in some] for some in tables(found).values()] == [["A", "C"], ["B"]]
    said = remarks(found)
    assert f"(data set {'d' * 12}: A, C; data set {'9' * 12}: B)" in said[0]
    assert not any("parents" in sentence for sentence in said)
    inputs = accepted.report.inputs | {"model": "7" * 64}
    write_json(runs["board"] / "report.json", accepted.report.model_copy(update={"inputs": inputs}))
    assert "the parents are different models" in remarks(gather([str(p) for p in runs.values()], Path("nowhere")))[-1]


def test_a_bundle_under_load_is_not_set_against_inference_alone(
    runs: dict[str, Path], measured: Benchmark, accepted: Built
) -> None:  # fmt: skip
    run = measured.run.model_copy(update={"void": ("throttled: too hot",)})
    write_json(runs["here"] / "benchmark.json", measured.model_copy(update={"run": run}))
    parts = Parts(preprocess_ms=0.1, inference_ms=0.7, postprocess_ms=0.2)
    whole = tuple(row.model_copy(update={"parts": parts}) for row in accepted.report.rows)
    write_json(runs["other-data"] / "report.json", accepted.report.model_copy(update={"rows": whole}))
    found = gather([str(runs["here"]), str(runs["board"]), str(runs["other-data"])], Path("nowhere"))
    measures = ["inference alone", "single-stream", "inference alone", "image to boxes"]
    assert [run.measures.split(",")[0] for run in found] == measures
    assert len(tables(found)) == 3
    assert any("latencies are of different things" in sentence for sentence in remarks(found))
    assert quarrels(found) == [("B", "throttled: too hot")]
    assert found[1].entries[0].part == "void"
    assert found[1].entries[0].artifact == measured.run.engine_sha256[:12]


def test_void_runs_are_marked_on_the_terminal_and_on_the_page(
    runs: dict[str, Path], measured: Benchmark, tabs: Tabs
) -> None:  # fmt: skip
    quick = measured.model_copy(update={"request": measured.request.model_copy(update={"load": Load(quick=True)})})
    write_json(runs["here"] / "benchmark.json", quick)
    done = edgeprune(runs["here"], runs["board"])
    assert done.returncode == 0, done.stderr
    assert "not to be quoted" in next(line for line in done.stdout.splitlines() if " bundle fp32 " in line)
    assert "B may not be quoted: quick" in done.stdout
    tab = tabs(page(gather([str(runs["here"]), str(runs["board"])], Path("nowhere"))))
    assert "B: quick" in tab.locator("header .warning").inner_text()
    assert tab.locator(".wide .mark.void").count() == 1
    struck = tab.locator("tr.void td").evaluate_all("all => all.map(n => getComputedStyle(n).textDecorationLine)")
    assert set(struck) == {"line-through"}


@pytest.mark.parametrize(("width", "theme"), [(375, "light"), (1280, "dark")])
def test_the_page_of_a_comparison(tabs: Tabs, runs: dict[str, Path], width: int, theme: str) -> None:
    found = gather([str(path) for path in runs.values()], Path("nowhere"))
    tab = tabs(page(found), width, theme=theme)
    assert tab.locator("h1").inner_text() == "3 runs on 2 devices"
    assert tab.locator("script").count() == 0
    shown = ".wide" if width > 600 else ".narrow"
    assert tab.locator(f"{shown} .mark").count() == 12
    assert tab.locator("tbody tr").count() == 12 + 3
    rows = tab.locator("section:has(#table-1) tbody tr").all_inner_texts()
    assert len(rows) == 8
    for row in rows:
        assert "cores" in row
        assert "0000000000" in row  # the artifact
    assert "Raspberry Pi 5 <Model B>" in tab.locator("main").inner_text()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(CONTRAST) == []
    assert page(found) == page(found)


def test_labels_of_two_devices_keep_off_each_other(tabs: Tabs, runs: dict[str, Path], accepted: Built) -> None:
    slower = tuple(
        row.model_copy(update={"latency_ms": row.latency_ms.model_copy(update={"p50": row.latency_ms.p50 * 1.1})})
        for row in accepted.report.rows
    )
    change = {"rows": slower, "candidates": (), "environment": {"cpu": "another"}}
    write_json(runs["board"] / "report.json", accepted.report.model_copy(update=change))
    tab = tabs(page(gather([str(runs["here"]), str(runs["board"])], Path("nowhere"))))
    assert tab.evaluate(OVERLAPS, "main") == []


def test_a_single_run_is_printed_with_its_page(tmp_path: Path, explained: Explained) -> None:
    folder = tmp_path / "build" / "colours"
    report = build(folder, explained.model, explained.plan)
    for name in ("colours", folder, folder / "report.json"):
        done = edgeprune(name, "--out", tmp_path / "build")
        assert done.returncode == 0, done.stderr
        assert f"the page: {folder / 'report.html'}" in done.stdout
        assert report.verdict.reasons[0] in done.stdout
    assert "Accepted" in (folder / "report.html").read_text()
    files = {path.name for path in folder.iterdir()}
    assert files == {".stages", "predictions", "report.html", "report.json", "samples"}


def test_what_is_no_run_is_refused(tmp_path: Path, runs: dict[str, Path]) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(EdgepruneError, match="is no run"):
        gather([str(runs["here"]), str(tmp_path / "x.json")], tmp_path)
    (tmp_path / "x.json").write_text("no JSON")
    with pytest.raises(EdgepruneError, match="can't be read as JSON"):
        gather([str(runs["here"]), str(tmp_path / "x.json")], tmp_path)
    with pytest.raises(ProfileError, match="no report of this target"):
        gather([str(runs["here"]), "nope"], tmp_path)
    with pytest.raises(ProfileError, match="needs two runs"):
        gather([str(runs["here"]), str(runs["here"] / "report.json")], tmp_path)
    done = edgeprune(runs["here"], "--html", tmp_path / "page.html")
    assert done.returncode == 2
    assert "two runs or more" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_report_from_before_can_still_be_compared(runs: dict[str, Path], accepted: Built) -> None:
    old = Report.model_validate(
        accepted.report.model_dump(include={"target", "rows", "verdict", "comparisons", "environment"}, mode="json")
    )
    write_json(runs["here"] / "report.json", old)
    found = gather([str(runs["here"]), str(runs["board"])], Path("nowhere"))
    assert found[0].entries[0].artifact == "not written down"
    assert len(tables(found)) == 2  # which data set it was, nobody knows
