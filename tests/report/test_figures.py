"""The figures behind the page: they are those of the run, and every engine that lost says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeprune.errors import EdgepruneError
from edgeprune.records import Accuracy, Box, Goal, read_json
from edgeprune.records.report import Report
from edgeprune.report import figures, samples
from edgeprune.report.verdict import judge
from tests.report.builds import BLOCK, ENGINES, ROUNDS, build, measured, race
from tests.report.conftest import Explained


def raced(maps: dict[str, float], drop: float = 0.01) -> dict[str, tuple[str, str]]:
    """Engine -> what it was and why, of the usual engines with these mAPs."""
    run = race({name: ENGINES[name] for name in maps})
    accuracies = [Accuracy(engine=name, map50_95=value, map50=value, images=4) for name, value in maps.items()]
    of = {v: [m for m in run.measurements if m.engine.startswith(v)] for v in ("parent", "pruned")}
    goal = Goal(max_map_drop=drop)
    verdict, _ = judge(of["parent"], of["pruned"], accuracies, goal)
    return {c.engine: (c.part, c.why) for c in figures.candidates(run.measurements, accuracies, verdict, goal)}


def test_every_candidate_says_why_it_was_not_taken() -> None:
    found = raced({"parent fp32": 0.6, "parent bf16": 0.6, "pruned fp32": 0.598, "pruned bf16": 0.5})
    assert {engine: part for engine, (part, _) in found.items()} == {
        "parent fp32": "lost", "parent bf16": "parent", "pruned fp32": "chosen", "pruned bf16": "lost",
    }  # fmt: skip
    assert "accepted" in found["pruned fp32"][1]
    assert "mAP50-95 drops by 0.1000, 0.0100 is agreed" in found["pruned bf16"][1]
    assert found["parent fp32"][1].startswith("slower: 1.6")


def test_a_slower_build_that_holds_lost_by_its_time() -> None:
    found = raced({"parent fp32": 0.6, "pruned fp32": 0.6, "pruned bf16": 0.6})
    assert found["pruned bf16"][0] == "chosen"
    assert found["pruned fp32"][1].startswith("slower: 1.3")


def test_the_best_of_rejected_builds_says_so() -> None:
    assert "rejected" in raced({"parent fp32": 0.6, "pruned bf16": 0.1})["pruned bf16"][1]


def test_interval_of_p50_holds_p50_and_narrows_with_more_rounds() -> None:
    m = measured("parent fp32", 8.0, 1)
    low, high = figures.p50_interval(m)
    assert low < m.latency_ms.p50 < high
    assert (low, high) == figures.p50_interval(m)
    more = m.model_copy(update={"blocks_ms": m.blocks_ms * 8})
    closer = figures.p50_interval(more)
    assert closer[1] - closer[0] < 0.7 * (high - low)


def test_every_inference_is_counted_and_every_block_stands_in_its_turn() -> None:
    run = race(ENGINES)
    picture = figures.latency_picture(run)
    for m in run.measurements:
        assert sum(picture.counts[m.engine]) == m.latency_ms.samples == ROUNDS * BLOCK
        own = [b.p50_ms for b in picture.blocks if b.engine == m.engine]
        assert own == pytest.approx([float(np.median(block)) for block in m.blocks_ms])
    assert [b.engine for b in picture.blocks] == [run.measurements[i].engine for i in run.order]
    ratios = np.diff(np.log(picture.edges_ms))
    assert ratios.max() == pytest.approx(ratios.min())


def test_widths_are_the_models_own_before_and_the_plans_after(explained: Explained) -> None:
    from edgeprune.yolo.widths import widths

    found = {w.layer: (w.parent, w.build) for w in figures.layer_widths(widths(explained.model), explained.plan)}
    assert found["model.4.cv1.conv"] == (64, 32)
    assert found["model.22.dfl.conv"] == (1, 1)
    for name, (before, after) in found.items():
        assert before == explained.model.get_submodule(name).weight.shape[0]
        assert after == len(explained.plan.layers[name].out)


def box(label: int, x: float, score: float = 0.9) -> Box:
    return Box(label=label, bbox=(x, 0, 10, 10), score=score)


def test_what_finds_no_partner_of_its_class_differs() -> None:
    assert samples.difference([box(0, 0)], [box(0, 2)]) == 0
    assert samples.difference([box(0, 0)], [box(1, 0)]) == 2
    assert samples.difference([box(0, 0), box(0, 1)], [box(0, 0)]) == 1
    assert samples.difference([], [box(0, 0)]) == 1
    assert samples.overlap(box(0, 0), box(0, 5)) == pytest.approx(1 / 3)


def test_images_are_chosen_by_rule_and_none_twice() -> None:
    found = samples.chosen([1, 5, 5, 2, 0], [3, 9, 0, 0, 4], each=2)
    assert [number for number, _ in found] == [2, 3, 5, 1]
    assert "most labelled" in found[0][1]
    assert "differ most" in found[2][1]
    assert [number for number, _ in samples.chosen([1, 1], [0, 0], each=1)] == [1]


def test_samples_hold_the_predictions_boxes_and_small_pictures(tmp_path: Path, explained: Explained) -> None:
    from PIL import Image

    report = build(tmp_path / "build", explained.model, explained.plan, drop=0.5)
    assert report == read_json(tmp_path / "build" / "report.json", Report, EdgepruneError)
    assert report.verdict.comparison.build == "pruned bf16"
    labels = {box.label for sample in report.samples for box in sample.build}
    assert labels == {0, 1}  # the third was forgotten
    for sample in report.samples:
        assert len(sample.truth) == 3
        assert all(
            box.score is not None and box.score >= report.sample_score for box in (*sample.parent, *sample.build)
        )
        with Image.open(tmp_path / "build" / sample.picture) as image:
            assert image.format == "JPEG"
            assert image.size == sample.size == (64, 64)
        best = max(samples.overlap(found, truth) for found in sample.parent for truth in sample.truth)
        assert best > 0.7
