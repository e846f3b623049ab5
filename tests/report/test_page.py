"""The page in a real browser: what it shows, what a click does, and that it asks nothing of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.report.explanation import Explanation
from edgeprune.report.page import page
from tests.report.conftest import Explained, Tabs

OVERLAPS = """() => {
    const boxes = [...document.querySelectorAll('#canvas .card')];
    const over = (p, q) => p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1;
    return boxes.flatMap((a, i) => boxes.slice(i + 1)
        .filter(b => over(a.getBoundingClientRect(), b.getBoundingClientRect()))
        .map(b => `${a.dataset.block} over ${b.dataset.block}`));
}"""
CUT = """() => [...document.querySelectorAll('#canvas .head b, #canvas .row .name')]
    .filter(n => n.scrollWidth > n.clientWidth).map(n => n.textContent)"""
Open = Callable[..., Any]


@pytest.fixture
def opened(tabs: Tabs) -> Open:
    """Opens an explanation's page."""

    def open_page(explanation: Explanation, width: int = 1280, height: int = 800, theme: str = "light") -> Any:
        return tabs(page(explanation), width, height, theme)

    return open_page


def index_of(explanation: Explanation, name: str) -> int:
    return next(i for i, group in enumerate(explanation.groups) if group.name == name)


def lit(tab: Any) -> set[tuple[str, str]]:
    """The layer sides that hold a highlighted segment."""
    sides = tab.eval_on_selector_all(
        "#canvas [data-layer]",
        "all => all.filter(n => n.querySelector('.seg.hit')).map(n => [n.dataset.layer, n.dataset.side])",
    )
    return {(layer, side) for layer, side in sides}


def test_every_block_is_a_card_and_every_edge_is_drawn(opened: Open, explained: Explained) -> None:
    tab = opened(explained.alone)
    assert tab.title() == "yolov8n.yaml: channel groups"
    assert tab.locator("#canvas .card").count() == len(explained.alone.blocks)
    assert tab.locator("#canvas path.edge").count() == len(explained.alone.edges)
    assert f"{len(explained.alone.groups)}" in tab.locator("#tiles").inner_text()


@pytest.mark.parametrize("name", ["model.4.cv1.conv[32:64]", "model.15.cv2.conv", "model.22.cv3.0.2"])
def test_a_click_on_a_group_shows_it_and_lights_exactly_its_members(
    opened: Open, explained: Explained, name: str
) -> None:
    tab, index = opened(explained.alone), index_of(explained.alone, name)
    group = explained.alone.groups[index]
    tab.click("#open-all")
    maker = name.partition("[")[0]
    tab.locator(f'#canvas [data-layer="{maker}"][data-side="out"] [data-g="{index}"]').first.click()
    panel = tab.locator("#panel")
    assert panel.locator("#group-name").inner_text() == name
    assert lit(tab) == {(m.layer, m.side) for m in group.members}
    listed = panel.locator("[data-member]").evaluate_all("all => all.map(n => n.dataset.member)")
    assert sorted(listed) == sorted(f"{m.layer} {m.side}" for m in group.members)
    cards = tab.eval_on_selector_all("#canvas .card.has", "all => all.map(n => n.dataset.block)")
    homes = {b.name for b in explained.alone.blocks for r in b.rows if {m.layer for m in group.members} & {*r.layers}}
    assert set(cards) == homes
    lock = panel.locator("#locked")
    assert (group.locked or "")[1:] in (lock.inner_text() if group.locked else "")
    assert lock.count() == (1 if group.locked else 0)


def test_a_tied_group_is_named_with_its_reason_and_can_be_chosen(opened: Open, explained: Explained) -> None:
    tab = opened(explained.alone)
    tab.locator(f'#canvas [data-g="{index_of(explained.alone, "model.0.conv")}"]').first.click()
    assert tab.locator("#tied").count() == 0
    tab.fill("#search", "model.4.cv1.conv[0:32]")
    tab.press("#search", "Enter")
    assert tab.locator("#group-name").inner_text() == "model.4.cv1.conv[0:32]"
    assert "chunk in model.4 splits the channels" in tab.locator("#panel").inner_text().lower()
    tab.click("#tied button")
    assert tab.locator("#group-name").inner_text() == "model.4.cv1.conv[32:64]"


def test_a_plan_is_shown_before_and_after(opened: Open, explained: Explained) -> None:
    tab, name = opened(explained.planned), "model.4.cv1.conv[32:64]"
    group = explained.planned.groups[index_of(explained.planned, name)]
    assert group.after == 16
    tab.click("#open-all")
    tab.locator(f'[data-layer="model.4.cv1.conv"] [data-g="{index_of(explained.planned, name)}"]').first.click()
    assert "32 → 16" in tab.locator("#plan-widths").inner_text()
    assert tab.locator("#panel .keep i").count() == len(group.keep)
    card = tab.locator('#canvas .card[data-block="model.4"]')
    assert "64→32" in card.inner_text()
    kept = tab.locator(f'[data-layer="model.4.cv1.conv"] [data-g="{index_of(explained.planned, name)}"]').first
    assert "50.0%" in kept.get_attribute("style")
    assert "→" in tab.locator("#tiles").inner_text()


def test_hovering_tells_what_it_costs(opened: Open, explained: Explained) -> None:
    tab, index = opened(explained.alone), index_of(explained.alone, "model.0.conv")
    tab.locator(f'#canvas [data-g="{index}"]').first.hover()
    said = tab.locator("#tip").inner_text()
    assert "model.0.conv" in said
    assert "MACs" in said
    tab.locator('#canvas .card[data-block="model.2"] b').hover()
    assert "model.2 C2f" in tab.locator("#tip").inner_text()


def test_the_keyboard_reaches_a_group(opened: Open, explained: Explained) -> None:
    tab = opened(explained.alone)
    strip = tab.locator('#canvas .card[data-block="model.12"] .strip.in')
    strip.locator('[tabindex="0"]').focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    second = strip.locator("[data-g]").nth(1).get_attribute("data-g")
    assert tab.locator("#group-name").inner_text() == explained.alone.groups[int(second)].name
    tab.keyboard.press("Escape")
    assert tab.locator("#group-name").count() == 0


def test_the_table_is_sorted_by_what_a_channel_carries(opened: Open, explained: Explained) -> None:
    tab = opened(explained.alone)
    tab.click("#tab-table")
    rows = tab.eval_on_selector_all("#table tbody tr", "all => all.map(n => Number(n.dataset.g))")
    assert sorted(rows) == list(range(len(explained.alone.groups)))
    carried = [explained.alone.groups[i].macs_per_channel for i in rows]
    assert carried == sorted(carried, reverse=True)
    tab.click('[data-sort="size"]')
    rows = tab.eval_on_selector_all("#table tbody tr", "all => all.map(n => Number(n.dataset.g))")
    sizes = [explained.alone.groups[i].size for i in rows]
    assert sizes == sorted(sizes, reverse=True)
    tab.locator("#table tbody tr").first.click()
    assert tab.locator("#group-name").inner_text() == explained.alone.groups[rows[0]].name


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080), (760, 900)])
@pytest.mark.parametrize("everything", [False, True])
def test_nothing_overlaps_and_no_heading_is_cut(
    opened: Open, explained: Explained, width: int, height: int, everything: bool
) -> None:
    tab = opened(explained.planned, width, height)
    if everything:
        tab.click("#open-all")
    assert tab.evaluate(OVERLAPS) == []
    assert tab.evaluate(CUT) == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_both_themes_have_their_own_colours(opened: Open, explained: Explained) -> None:
    colours = {
        theme: opened(explained.alone, theme=theme).evaluate("getComputedStyle(document.body).backgroundColor")
        for theme in ("light", "dark")
    }
    assert colours["light"] != colours["dark"]


def test_a_name_is_text_and_never_markup(opened: Open, explained: Explained) -> None:
    evil = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>"
    groups = (replace(explained.alone.groups[0], locked=evil), *explained.alone.groups[1:])
    tab = opened(replace(explained.alone, model=evil, groups=groups))
    assert tab.locator("#model").inner_text() == evil
    tab.locator('#canvas [data-g="0"]').first.click()
    assert evil[1:] in tab.locator("#locked").inner_text()


def test_the_same_explanation_gives_the_same_bytes(explained: Explained) -> None:
    assert page(explained.planned) == page(explained.planned)
    text = page(explained.planned).decode()
    for word in ("http://", "https://", "@import", "url(", "<link", "src="):
        assert word not in text.replace("http://www.w3.org/2000/svg", "").replace("url(#arrow)", "")
