"""The arena's leaderboard in a real browser: every entrant with its figures and words, nothing asked of the network."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgeprune.records import Recipe
from edgeprune.records.arena import Arena, Entrant, Run, standings, winner
from edgeprune.records.sweep import Raced
from edgeprune.report.arena import page, progress, show
from tests.records.test_arena import ENTRANTS, RUNS, run
from tests.report.conftest import Tabs
from tests.report.look import CONTRAST, OVERLAPS
from tests.report.test_pareto import raced


def arena(entrants: list[Entrant], runs: list[Run], parent: Raced | None) -> Arena:
    found = standings(entrants, runs, "speedup", 2.0, parent.row.latency_ms.p50 if parent else None)
    return Arena(
        study="t-2x", target="t", kind="speedup", value=2.0, epochs=8, seeds=2, base=Recipe().model_dump(mode="json"),
        standings=found, winner=winner(found), parent=parent,
        environment={"cpu": "A <i>processor</i>"} if parent else {}, inputs={"model": "a" * 64},
    )  # fmt: skip


@pytest.fixture
def board() -> Arena:
    """Five on the board, one stopped in a seed, one refused, one failed with a sentence that would be markup."""
    failed = Run(entrant="granularity=blocks", seed=0, state="failed", why="PlanError: <b>so little</b> can't be had")
    entrants = [*ENTRANTS, Entrant(name="granularity=blocks")]
    return arena(entrants, [*RUNS, failed], raced("parent fp32", 10.0, 0.62, None))


def test_the_board_has_everyone_who_finished_in_order_with_words(tabs: Tabs, board: Arena) -> None:
    tab = tabs(page(board))
    rows = tab.locator("section:has(#board) tbody tr").all()
    ranked = [s for s in board.standings if s.done]
    assert len(rows) == len(ranked) == 5
    for shown, standing in zip(rows, ranked, strict=True):
        cells = shown.locator("th, td").all_inner_texts()
        assert cells[0].startswith(standing.entrant.name)
        assert cells[1].startswith(f"{standing.map50_95:.4f}")
        assert cells[-1] == f"{len(standing.done)}/{len(standing.runs)}"
    told = tab.locator("section:has(#told) tbody tr").all()
    for shown, standing in zip(told, ranked, strict=True):
        expected = [standing.entrant.name, standing.against_control, standing.against_base]
        assert shown.locator("th, td").all_inner_texts() == expected
    assert "chosen" in (rows[0].get_attribute("class") or "")
    text = tab.locator("section:has(#board)").inner_text()
    assert "the runtime is no faster for them, 1.00 times" in text
    assert "a mean of 1 of 2 seeds, which flatters" in text
    assert "not as fast as asked: 1.83 times" in text
    assert "winner: base, mAP50-95 0.6000 ± 0.0141" in tab.locator("header").inner_text()


def test_what_didnt_finish_is_listed_with_its_reason_as_text(tabs: Tabs, board: Arena) -> None:
    rows = tabs(page(board)).locator("section:has(#others) tbody tr").all_inner_texts()
    assert [" ".join(row.split()) for row in rows] == [
        "importance=bn refused: no BatchNorm",
        "pruning=gradual 1 fell behind",
        "granularity=blocks 0 failed: PlanError: <b>so little</b> can't be had",
    ]


def test_every_entrant_has_a_mark_and_those_that_matter_a_name(tabs: Tabs, board: Arena) -> None:
    tab = tabs(page(board))

    def count(what: str) -> int:
        return int(tab.locator(f"section:has(#race) .wide {what}").count())

    assert (count(".mark.parent"), count(".mark.chosen"), count(".mark.other"), count(".mark.lost")) == (1, 1, 1, 3)
    names = {text for text in tab.locator("section:has(#race) .wide text.name").all_text_contents() if text}
    assert names == {"parent fp32", "base", "importance=random", "pruning=gradual"}  # winner, control, the front
    titles = tab.locator("section:has(#race) .wide .point title").all_text_contents()
    assert any("importance=l1" in title for title in titles)


def test_strips_show_what_each_removed_layer_by_layer(tabs: Tabs, board: Arena) -> None:
    """Layers of 100 weights with 25 and 0 left: three quarters gone, all gone."""
    tab = tabs(page(board))
    cells = tab.locator("section:has(#removed) .wide .cell")
    assert cells.count() == 5 * 2
    assert [cells.nth(n).get_attribute("fill-opacity") for n in (0, 1)] == ["0.75", "1.00"]
    assert "model.0.conv: 75% gone, 25 of 100 weights left" in cells.nth(0).locator("title").text_content()
    assert "base (88%)" in tab.locator("section:has(#removed) .wide text.name").all_text_contents()


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_it_is_readable_on_a_phone(tabs: Tabs, board: Arena, width: int) -> None:
    tab = tabs(page(board), width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for part in ("race", "removed"):
        assert tab.evaluate(OVERLAPS, f"section:has(#{part})") == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(tabs: Tabs, board: Arena, theme: str) -> None:
    assert tabs(page(board), theme=theme).evaluate(CONTRAST) == []


def test_a_race_without_any_finish_has_a_page_all_the_same(tabs: Tabs) -> None:
    tab = tabs(page(arena(ENTRANTS[:2], [Run(entrant="base", seed=0, state="running")], None)))
    assert "0 of 2 entrants" in tab.locator("h1").inner_text()
    assert "1 runs are still open" in tab.locator("header").inner_text()
    assert "no winner" in tab.locator("header").inner_text()
    assert tab.locator("svg .mark").count() == 0


def test_without_a_race_here_the_parent_is_the_unit(tabs: Tabs) -> None:
    tab = tabs(page(arena(ENTRANTS, RUNS, None)))
    assert "the parent's is 1" in tab.locator("section:has(#race)").inner_text()
    assert "its own race with the parent" in tab.locator("section:has(#board)").inner_text()


def test_the_terminal_says_the_same(board: Arena) -> None:
    out = io.StringIO()
    show(board, Console(file=out, width=200))
    said = out.getvalue()
    for standing in board.standings:
        assert standing.entrant.name in said
    for told in (
        "2.00 [1.92, 2.08]",
        "refused: no BatchNorm",
        "seed 1: fell behind",
        "<b>so little</b>",
        "winner: base",
    ):
        assert told in said


def test_progress_tells_how_long_it_may_take() -> None:
    """Two ended after 15 minutes each; four are to come, two at work: 15 x 4 / 2 minutes."""
    ended = [run("base", 0, 0.5), run("importance=random", 0, 0.5)]
    rest = [Run(entrant=f"e{n}", seed=0, state="running" if n < 2 else "waiting") for n in range(4)]
    failed = Run(entrant="f", seed=0, state="failed", why="so", hours=9.0)
    assert progress([*ended, failed, *rest]) == (
        "3 of 7 runs decided (2 done, 1 failed, 2 running); about 30 min left with 2 at work"
    )
    assert progress(ended) == "2 of 2 runs decided (2 done)"
    assert progress(rest) == "0 of 4 runs decided (2 running)"
