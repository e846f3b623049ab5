"""compare.html and the table: every row with its figures, what came out in a sentence, looks on screen and phone."""

from __future__ import annotations

import io

import pytest
from pydantic import ValidationError
from rich.console import Console

from edgeprune.bench.measure import compare
from edgeprune.records import Compared, ComparedRow, Measurement, TargetProfile
from edgeprune.records.rivals import LeftOut, Side
from edgeprune.report.figures import p50_interval
from edgeprune.report.rivals import page, show
from edgeprune.rivals.table import listed, sentences
from tests.report.builds import INPUTS, measured
from tests.report.conftest import Tabs
from tests.report.look import CONTRAST, OVERLAPS

#: Name -> side, median in milliseconds, mAP50-95.
ENGINES: dict[str, tuple[Side, float, float]] = {
    "parent fp32": ("parent", 8.0, 0.617), "parent bf16": ("parent", 4.0, 0.616), "pruned fp32": ("build", 3.0, 0.613),
    "pruned int8": ("build", 1.2, 0.611), "ultralytics fp32": ("rival", 3.4, 0.615),
    "ultralytics int8": ("rival", 2.55, 0.613), "ultralytics int8 at its best": ("rival", 2.4, 0.613),
    "nncf int8": ("rival", 2.2, 0.402), "nncf <mixed> int8": ("rival", 2.5, 0.611),
}  # fmt: skip


def tool(name: str) -> list[str]:
    """Whose tool made an engine, and in which precision."""
    return name.removesuffix(" at its best").rsplit(" ", 1)


def compared(build: str = "pruned int8", **changes: object) -> Compared:
    runs: dict[str, Measurement] = {
        name: measured(name, median, number) for number, (name, (_, median, _)) in enumerate(ENGINES.items())
    }
    rows = tuple(
        ComparedRow(
            name=name, side=side, exporter=f"{tool(name)[0]} 1.0", how="tool export model.pt", precision=tool(name)[1],
            arithmetic=name.split()[-1], map50_95=score, map50=score + 0.2, latency_ms=runs[name].latency_ms,
            p50_interval_ms=p50_interval(runs[name]),
            against=None if name == build else compare(runs[build], runs[name]), bytes=3_400_000,
            artifact_sha256=f"{number:064x}",
        )
        for number, (name, (side, _, score)) in enumerate(ENGINES.items())
    )  # fmt: skip
    profile = TargetProfile(description="d", runtime="openvino", input_shape=(1, 3, 320, 320))
    whole = {
        "target": "openvino-x86-int8", "profile": profile, "runtime": "openvino 2026.4", "build": build,
        "accepted": True, "max_map_drop": 0.01, "rows": rows, "rounds": 40, "val_images": 73,
        "left_out": (LeftOut(name="ultralytics qat int8", exporter="ultralytics 8", why="no <package>"),),
        "notes": ("ranges are from 128 images",), "settings_raced": {"nncf int8": ("2.2 ms: bf16", "2.6 ms: fp32")},
        "environment": {"cpu": "A <processor>", "cores": "2", "machine": "x86_64"}, "inputs": INPUTS,
    }  # fmt: skip
    return Compared.model_validate(whole | changes)


FOUND = compared()


def test_the_rival_that_counts_is_the_fastest_whose_map_holds() -> None:
    build, holding, fastest = sentences(FOUND)
    times = 1 / FOUND.row("ultralytics int8 at its best").against.ratio  # type: ignore[union-attr]
    assert times == pytest.approx(2.0, rel=0.05)
    assert build == "pruned int8 (mAP50-95 0.6110, +0.0060 lost) takes " + build[-7:]
    assert f"whose mAP holds is ultralytics int8 at its best, 2.4{holding.split('2.4')[1][:1]} ms" in holding
    assert f"ours has {times:.2f} times its speed" in holding
    assert "the fastest of all, at mAP50-95 0.4020, is nncf int8" in fastest


def test_where_no_rival_holds_or_there_is_none_it_says_so() -> None:
    strict = compared(max_map_drop=0.001)
    assert any("no export of others loses 0.001 or less" in told for told in sentences(strict))
    alone = compared(rows=tuple(row for row in FOUND.rows if row.side != "rival"))
    assert sentences(alone)[-1] == "nobody else's export could be raced"
    assert "rejected by its own gate" in sentences(compared(accepted=False))[0]


def test_a_slower_build_is_not_flattered() -> None:
    slow = compared(build="pruned fp32")
    told = next(text for text in sentences(slow) if "whose mAP holds" in text)
    against = slow.row("ultralytics int8 at its best").against
    assert against is not None
    assert against.ratio > 1.2
    assert f"ours has {1 / against.ratio:.2f} times its speed" in told


def test_the_table_has_every_row_with_its_figures_and_what_was_left_out() -> None:
    out = io.StringIO()
    show(FOUND, Console(file=out, width=200, highlight=False, soft_wrap=True))
    lines = out.getvalue().splitlines()
    assert [row.side for row in listed(FOUND)] == sorted(row.side for row in FOUND.rows)
    for row in FOUND.rows:
        line = next(text for text in lines if text.startswith(f"{row.name}  "))
        assert f"{row.map50_95:.4f}" in line
        assert f"{row.latency_ms.p99:.2f}" in line
    assert "left out: ultralytics qat int8: no <package>" in out.getvalue()
    assert out.getvalue().splitlines()[-1].strip() == sentences(FOUND)[-1]


def test_the_same_record_gives_the_same_page_and_text_stays_text() -> None:
    made = page(FOUND)
    assert made == page(Compared.model_validate_json(FOUND.model_dump_json()))
    text = made.decode()
    assert "nncf &lt;mixed&gt; int8" in text
    assert "no &lt;package&gt;" in text
    assert "<mixed>" not in text
    assert "Not to be quoted" not in text
    assert "Not to be quoted" in page(compared(rounds=4)).decode()
    assert "Not to be quoted" in page(compared(environment={"emulated": "QEMU"})).decode()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_readable_in_both_themes_and_no_label_lies_on_another(tabs: Tabs, theme: str) -> None:
    tab = tabs(page(FOUND), theme=theme)
    assert tab.evaluate(CONTRAST) == []
    assert tab.evaluate(OVERLAPS, "main") == []
    assert tab.locator("tbody tr").count() == len(FOUND.rows) + len(FOUND.left_out)


def test_the_page_is_no_wider_than_a_phone(tabs: Tabs) -> None:
    tab = tabs(page(FOUND), width=375, height=700)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"build": "ultralytics int8"}, "build is a row of the build"),
        ({"rows": (*FOUND.rows, FOUND.rows[0])}, "names of their own"),
        ({"rows": tuple(row for row in FOUND.rows if row.side != "parent")}, "a row of the parent"),
    ],
)
def test_a_record_that_cant_be_read_as_a_comparison_is_refused(changes: dict[str, object], says: str) -> None:
    whole = FOUND.model_dump() | changes
    with pytest.raises(ValidationError, match=says):
        Compared.model_validate(whole)


def test_losses_are_told_from_the_parent_in_fp32() -> None:
    assert FOUND.reference == 0.617
    assert FOUND.holds(FOUND.row("nncf <mixed> int8"))
    assert not FOUND.holds(FOUND.row("nncf int8"))
