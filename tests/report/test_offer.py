"""What a rejected build offers: only what holds here, on this device, of this parent; and what to ask for next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgeprune.errors import EdgepruneError
from edgeprune.records import Goal, Report, read_json, write_json
from edgeprune.report.offer import best_offer, siblings, try_next
from edgeprune.report.table import show
from edgeprune.workshop import Workshop
from tests.report.builds import Built
from tests.report.conftest import Tabs

GOAL = Goal(macs_ratio=0.2, max_map_drop=0.01)


def build(accepted: Built, ratio: float, *, good: bool = True, **changes: Any) -> Report:
    """The accepted build's report, as if its goal and figures had been others."""
    report = accepted.report
    assert report.origin is not None
    goal = Goal(macs_ratio=ratio, max_map_drop=0.01)
    scale = changes.pop("speed", ratio) / report.verdict.comparison.ratio
    old = report.verdict.comparison
    comparison = old.model_copy(
        update={"ratio": old.ratio * scale, "low": old.low * scale, "high": old.high * scale, "tail": None}
    )
    verdict = report.verdict.model_copy(
        update={"accepted": good, "comparison": comparison, "map_drop": changes.pop("drop", 0.0 if good else 0.1)}
    )
    recipe = report.origin.recipe.model_copy(update={"goal": goal})
    origin = report.origin.model_copy(update={"recipe": recipe})
    return report.model_copy(update={"verdict": verdict, "origin": origin, **changes})


def put(folder: Path, report: Report) -> Report:
    write_json(folder / "report.json", report)
    return report


def test_the_fastest_that_holds_is_offered_with_its_own_figures(tmp_path: Path, accepted: Built) -> None:
    own = put(tmp_path / "own", build(accepted, 0.2, good=False))
    put(tmp_path / "mild", build(accepted, 0.7))
    best = put(tmp_path / "hard", build(accepted, 0.4))
    put(tmp_path / "worse", build(accepted, 0.3, good=False))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text("{")
    found = best_offer(own, GOAL, siblings(tmp_path / "own", own))
    assert found is not None
    assert found.folder == "hard"
    assert found.goal.macs_ratio == 0.4
    assert found.comparison == best.verdict.comparison
    assert found.row in best.rows
    assert found.row.variant == "pruned"
    assert "the fastest of 2" in found.why


def test_a_drop_that_was_agreed_there_need_not_hold_here(tmp_path: Path, accepted: Built) -> None:
    own = put(tmp_path / "own", build(accepted, 0.2, good=False))
    put(tmp_path / "loose", build(accepted, 0.3, drop=0.05))
    put(tmp_path / "strict", build(accepted, 0.6, drop=0.01))
    found = best_offer(own, GOAL, siblings(tmp_path / "own", own))
    assert found is not None
    assert found.folder == "strict"


@pytest.mark.parametrize(
    "other",
    [
        {"inputs": {"model": "0" * 64}},
        {"inputs": {"data": "0" * 64}},
        {"inputs": {"target": "0" * 64}},
        {"environment": {"cpu": "another"}},
        {"environment": {"cores": "3"}},
        {"rows": "onnxruntime 2.0"},
        {"origin": None},
    ],
)
def test_another_parent_data_set_target_device_or_version_is_no_offer(
    tmp_path: Path, accepted: Built, other: dict[str, Any]
) -> None:
    own = put(tmp_path / "own", build(accepted, 0.2, good=False))
    there = build(accepted, 0.5)
    assert siblings(tmp_path / "own", own) == ()
    put(tmp_path / "other", there)
    assert [s.folder for s in siblings(tmp_path / "own", own)] == ["other"]
    (field, value), *_ = other.items()
    if field == "rows":
        changed: Any = tuple(row.model_copy(update={"runtime": value}) for row in there.rows)
    else:
        changed = value and {**getattr(there, field), **value}
    put(tmp_path / "other", there.model_copy(update={field: changed}))
    assert siblings(tmp_path / "own", own) == ()


def advice(own: Report, goal: Goal, folder: Path) -> str:
    return try_next(own, goal, siblings(folder, own))


def test_what_to_try_lies_between_the_last_that_held_and_this(tmp_path: Path, accepted: Built) -> None:
    own = put(tmp_path / "own", build(accepted, 0.2, good=False))
    said = advice(own, GOAL, tmp_path / "own")
    assert "between the whole model and macs_ratio 0.2: macs_ratio 0.447" in said
    put(tmp_path / "a", build(accepted, 0.8))
    put(tmp_path / "b", build(accepted, 0.45))
    put(tmp_path / "c", build(accepted, 0.1))  # harder than this one, and it held: not what this lies between
    said = advice(own, GOAL, tmp_path / "own")
    assert "between macs_ratio 0.45, which holds, and macs_ratio 0.2: macs_ratio 0.3;" in said


def test_what_is_good_but_not_fast_wants_a_harder_goal(tmp_path: Path, accepted: Built) -> None:
    own = put(tmp_path / "own", build(accepted, 0.9, good=False, drop=0.0, speed=1.05))
    assert "harder goal than macs_ratio 0.9" in advice(own, Goal(macs_ratio=0.9), tmp_path / "own")
    neither = put(tmp_path / "own", build(accepted, 0.9, good=False, drop=0.2, speed=1.05))
    assert advice(neither, Goal(macs_ratio=0.9), tmp_path / "own").startswith("neither speed nor accuracy")


def test_table_and_page_say_what_is_offered(
    tmp_path: Path, accepted: Built, tabs: Tabs, capsys: pytest.CaptureFixture[str]
) -> None:
    own = put(tmp_path / "own", build(accepted, 0.2, good=False))
    put(tmp_path / "t-<b>2x", build(accepted, 0.4))
    others = siblings(tmp_path / "own", own)
    offer = best_offer(own, GOAL, others)
    verdict = own.verdict.model_copy(update={"offer": offer, "try_next": try_next(own, GOAL, others)})
    offered = own.model_copy(update={"verdict": verdict})
    show(offered, Console(width=300))
    said = capsys.readouterr().out
    assert "what does hold: t-<b>2x (macs_ratio 0.4)" in said
    assert "what to try: a milder goal" in said
    header = tabs(accepted.page(offered)).locator("header").inner_text()
    assert "t-<b>2x, macs_ratio 0.4" in header
    assert "milder goal" in header
    for width in (320, 1280):
        assert tabs(accepted.page(offered), width).evaluate("document.documentElement.scrollWidth") <= width


def test_an_accepted_build_offers_nothing(accepted: Built) -> None:
    assert accepted.report.verdict.offer is None
    assert "What does hold" not in accepted.page().decode()


def test_the_offer_follows_what_lies_beside_it_and_runs_nothing_else(tmp_path: Path, accepted: Built) -> None:
    """As the stage has it: judged once, offered anew when a sibling comes or goes."""
    from types import SimpleNamespace

    from edgeprune import stages
    from edgeprune.stages.judge import JUDGED

    own = build(accepted, 0.2, good=False)
    shop = Workshop(tmp_path / "own")
    job: Any = SimpleNamespace(shop=shop, recipe=SimpleNamespace(goal=GOAL))
    with shop.open():
        write_json(tmp_path / "own" / JUDGED, own)
        assert stages.offer(job).verdict.offer is None
        assert stages.offer(job).verdict.try_next is not None
        assert shop.ran == ["offer"]
        put(tmp_path / "beside", build(accepted, 0.4))
        found = stages.offer(job)
        assert found.verdict.offer is not None
        assert found.verdict.offer.folder == "beside"
        assert shop.ran == ["offer", "offer"]
        stages.offer(job)
        assert shop.ran == ["offer", "offer"]
        assert read_json(tmp_path / "own" / "report.json", Report, EdgepruneError) == found
        assert found.verdict.reasons == own.verdict.reasons
