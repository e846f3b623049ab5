"""Axes and markup: what the pictures stand on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.report.axes import Rectangle, Scale, padded, place
from edgeprune.report.markup import Markup, join, tag

FIELD = Rectangle(50, 20, 850, 300)


@given(st.floats(0.01, 1000), st.floats(1.05, 500), st.booleans(), st.sampled_from([280.0, 800.0]))
def test_ticks_are_round_apart_and_within_the_axis(low: float, times: float, log: bool, pixels: float) -> None:
    axis = Scale(low, low * times, 0, pixels, log=log)
    ticks = axis.ticks(40)
    assert 1 <= len(ticks) <= pixels / 40 + 1
    assert all(low * (1 - 1e-6) <= tick <= low * times * (1 + 1e-6) for tick in ticks)
    assert all(len(f"{tick:g}".replace("0", "").replace(".", "").partition("e")[0]) <= 6 for tick in ticks)
    places = [axis(tick) for tick in ticks]
    assert places == sorted(places)


def test_a_scale_is_linear_or_logarithmic_from_end_to_end() -> None:
    linear, log = Scale(0, 10, 100, 0), Scale(1, 100, 0, 200, log=True)
    assert [linear(v) for v in (0, 5, 10)] == [100, 50, 0]
    assert [log(v) for v in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert padded([2.0, 2.0], 0.1, 1.0) == (1.5, 2.5)


def test_labels_of_a_crowd_keep_off_each_other_and_off_the_marks() -> None:
    points = [(100.0 + 30 * n, 100.0 + 9 * (n % 3)) for n in range(8)]
    boxes = place(points, [f"{'parent' if n % 2 else 'pruned'} fp32" for n in range(8)], FIELD)
    for n, box in enumerate(boxes):
        assert not any(box.meets(other) for other in boxes[n + 1 :])
        assert not any(box.left < x < box.right and box.top < y < box.bottom for x, y in points)
        assert box.outside(FIELD) == 0


@given(st.text(max_size=40))
def test_text_never_becomes_markup(text: str) -> None:
    from html.parser import HTMLParser

    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
            seen.append(name)

    Reader().feed(tag("p", text, [text, (text, None, False)], title=text, data_x=0, hidden=True))
    assert seen == ["p"]


def test_attributes_keep_zero_and_leave_out_what_isnt_there() -> None:
    assert tag("rect", x=0, y=0.5, class_="a b", width=None, hidden=False, font_size=12) == (
        '<rect x="0" y="0.5" class="a b" font-size="12"></rect>'
    )
    assert tag("input", checked=True) == "<input checked>"
    inner = tag("b", 1)
    assert isinstance(join((inner, "<")), Markup)
    assert join((inner, "<")) == "<b>1</b>&lt;"
    assert join((f"{inner}",)) == "&lt;b&gt;1&lt;/b&gt;"  # an f-string is text again
