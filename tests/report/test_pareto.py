"""The page of a sweep in a real browser: every point on the plane, the front, the agreed drop, and nothing asked of the
network."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprune.records import Comparison, Latency, Row, Sweep, write_json
from edgeprune.records.sweep import Point, Raced, front
from edgeprune.report.build_page import page as build_page
from edgeprune.report.pareto import curve_section, curves_of, others, page, renew_sweep
from edgeprune.report.renew import renew
from edgeprune.workshop import Workshop
from tests.report.builds import INPUTS, Built
from tests.report.conftest import Tabs
from tests.report.look import CONTRAST, OVERLAPS
from tests.report.test_rivals import compared as comparison


def raced(engine: str, ms: float, map50_95: float, best: float | None = 10.0) -> Raced:
    latency = Latency(p50=ms, p90=ms * 1.1, p99=ms * 1.4, mad=ms / 100, samples=800)
    row = Row(
        variant=engine.split()[-2], runtime="openvino 1.0", precision=engine.split()[-1], map50_95=map50_95,
        map50=map50_95 + 0.2, latency_ms=latency, macs=round(ms * 1e8), parameters=10, bytes=4_000_000, image_size=320,
    )  # fmt: skip
    against = best and Comparison(
        build=engine, parent="parent fp32", ratio=ms / best, low=ms / best * 0.97, high=ms / best * 1.03,
        confidence=0.99, pairs=40,
    )  # fmt: skip
    return Raced(
        engine=engine, row=row, artifact_sha256="a" * 64, p50_interval_ms=(ms * 0.97, ms * 1.03),
        against=against or None,
    )  # fmt: skip


@pytest.fixture
def sweep() -> Sweep:
    """Two that hold, one that is beaten by both in both, one that is fast and bad, one that couldn't be made."""
    engines = front(
        [
            raced("parent fp32", 10.0, 0.62, None), raced("1.5x pruned int8", 6.5, 0.625),
            raced("1.8x pruned int8", 6.8, 0.60), raced("2x pruned int8", 5.0, 0.618),
            raced("3x pruned int8", 3.3, 0.55),
        ]
    )  # fmt: skip
    accepted = {"1.5x": True, "1.8x": False, "2x": True, "3x": False}
    points = [
        Point(
            name=name, value=float(name[:-1]), folder=f"t-{name}", raced=made, accepted=accepted[name],
            why="accepted: so" if accepted[name] else "rejected: <b>bad</b>",
        )
        for made in engines[1:]
        for name in made.engine.split()[:1]
    ]  # fmt: skip
    points.append(Point(name="9x", value=9, folder="t-9x", why="The budget is under that of an empty engine."))
    return Sweep(
        target="t", kind="speedup", max_map_drop=0.01, parent="parent fp32", parents=engines[:1], points=tuple(points),
        environment={"cpu": "A <i>processor</i>", "cores": "2"}, inputs=INPUTS,
    )  # fmt: skip


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """The folder of a build that was compared: of Ultralytics two precisions, one of them raced twice; of NNCF one."""
    write_json(tmp_path / "compare" / "t" / "compare.json", comparison())
    return tmp_path / "t"


def test_the_front_is_what_nothing_beats(sweep: Sweep) -> None:
    behind = {r.engine: r.dominated_by for r in sweep.raced}
    assert behind == {
        "parent fp32": "1.5x pruned int8", "1.5x pruned int8": None, "1.8x pruned int8": "2x pruned int8",
        "2x pruned int8": None, "3x pruned int8": None,
    }  # fmt: skip
    twins = front([raced("a pruned fp32", 5, 0.5), raced("b pruned fp32", 5, 0.5), raced("c pruned fp32", 5, 0.4)])
    assert [t.dominated_by for t in twins] == [None, None, "a pruned fp32"]


def test_every_point_has_a_mark_and_others_have_theirs(tabs: Tabs, sweep: Sweep, compared: Path) -> None:
    found = others(compared, INPUTS)
    assert [p.label for p in found] == ["nncf int8", "ultralytics int8", "nncf <mixed> int8", "ultralytics fp32"]
    assert found[1].ms == pytest.approx(2.4, rel=0.05)  # at its best
    tab = tabs(page(sweep, found))

    def count(what: str) -> int:
        return int(tab.locator(f"section:has(#curve) .wide {what}").count())

    assert (count(".mark.parent"), count(".mark.chosen"), count(".mark.lost"), count(".mark.other")) == (1, 2, 2, 4)
    assert count("line.whisker") == 3 * 9
    assert count(".agreed") == count("path.front") == 1
    assert "of a run of their own" in tab.locator("section:has(#curve)").inner_text()
    assert others(compared.with_name("nowhere"), INPUTS) == []
    assert others(compared, INPUTS | {"data": "0" * 64}) == []


def test_the_front_is_drawn_through_its_points(tabs: Tabs, sweep: Sweep) -> None:
    tab = tabs(page(sweep))
    box = tab.locator("section:has(#curve) .wide path.front").bounding_box()
    marks = [mark.bounding_box() for mark in tab.locator("section:has(#curve) .wide .mark").all()]
    centres = [(m["x"] + m["width"] / 2, m["y"] + m["height"] / 2) for m in marks]
    best, _, _, fastest = centres[1:]
    assert box["x"] == pytest.approx(fastest[0], abs=4)
    assert box["y"] == pytest.approx(best[1], abs=4)
    assert box["y"] + box["height"] == pytest.approx(fastest[1], abs=4)


def test_the_table_has_every_point_with_its_figures(tabs: Tabs, sweep: Sweep) -> None:
    tab = tabs(page(sweep))
    rows = tab.locator("section:has(#points) tbody tr").all()
    assert len(rows) == 6
    for shown, point in zip(rows[1:], sweep.points, strict=True):
        cells = shown.locator("th, td").all_inner_texts()
        assert cells[:2] == [point.name, point.folder]
        if point.raced:
            assert cells[3:5] == [f"{point.raced.row.map50_95:.4f}", f"{point.raced.row.latency_ms.p50:.2f}"]
    said = tab.locator("header").inner_text()
    assert "2 of 5 builds hold" in said
    assert "empty engine" in said
    assert "<b>bad</b>" in said  # text, not markup


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_it_is_readable_on_a_phone(tabs: Tabs, sweep: Sweep, compared: Path, width: int) -> None:
    tab = tabs(page(sweep, others(compared, INPUTS)), width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(OVERLAPS, "section:has(#curve)") == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(tabs: Tabs, sweep: Sweep, theme: str) -> None:
    assert tabs(page(sweep), theme=theme).evaluate(CONTRAST) == []


def test_a_build_shows_the_curve_that_lies_beside_it(tmp_path: Path, tabs: Tabs, sweep: Sweep, accepted: Built) -> None:
    shop = Workshop(tmp_path / "t")
    with shop.open():
        write_json(tmp_path / "t" / "report.json", accepted.report)
        renew(shop)
        assert renew_sweep(shop) == []
        assert "Builds by speed asked for" not in (tmp_path / "t" / "report.html").read_text()
        write_json(tmp_path / "t" / "sweep.json", sweep)
        renew(shop)
        assert renew_sweep(shop) == [tmp_path / "t" / "sweep.html"]
    text = (tmp_path / "t" / "report.html").read_text()
    assert "Builds by speed asked for" in text
    assert tabs(text.encode()).locator("section:has(#sweep) .wide .mark").count() == 5
    assert "of a run of their own" not in text
    assert curves_of(tmp_path / "t", accepted.report.inputs) == [sweep]
    assert curves_of(tmp_path / "t", accepted.report.inputs | {"data": "0" * 64}) == []


def test_a_comparison_that_comes_later_brings_its_marks(
    tmp_path: Path, sweep: Sweep, accepted: Built, compared: Path
) -> None:
    shop = Workshop(compared)
    with shop.open():
        write_json(compared / "sweep.json", sweep)
        write_json(compared / "report.json", accepted.report)
        file = tmp_path / "compare/t/compare.json"
        file.rename(file.with_name("later"))
        renew(shop)
        renew_sweep(shop)
        assert shop.ran == ["page", "page of sweep.json"]
        file.with_name("later").rename(file)
        renew(shop)
        renew_sweep(shop)
        assert shop.ran == ["page", "page of sweep.json"] * 2
    for name in ("report.html", "sweep.html"):
        assert "ultralytics int8" in (compared / name).read_text()


def test_a_sweep_without_any_build_has_a_page_all_the_same(tabs: Tabs, sweep: Sweep, accepted: Built) -> None:
    none = sweep.model_copy(update={"parents": (), "parent": None, "points": sweep.points[-1:], "environment": {}})
    tab = tabs(page(none))
    assert "0 of 1 builds hold" in tab.locator("h1").inner_text()
    assert tab.locator("svg .mark").count() == 0
    assert curve_section(none) is None
    assert b"Builds by" not in build_page(accepted.report, {}, curves=[curve_section(none)])
