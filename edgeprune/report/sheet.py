"""What the pages of builds and of comparisons are put together from: the sheet itself, sections, tables, figures.

Rules:
- A page is whole: styles and pictures stand in the one file, its policy forbids every request, and it has no script.
- Tables scroll in a box of their own that the keyboard reaches, so that no page is wider than its screen.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from edgeprune.report.charts import shape
from edgeprune.report.markup import Markup, join, tag


def sheet(title: str, *body: object) -> bytes:
    """A page as UTF-8; the same content gives the same bytes."""
    template = files("edgeprune.report").joinpath("build.html").read_text("utf-8")
    before, _, rest = template.partition("__TITLE__")
    middle, _, after = rest.partition("__BODY__")
    return f"{before}{html.escape(title)}{middle}{join(body)}{after}".encode()


def themes() -> Markup:
    """The switch between the system's colours, light and dark."""
    return tag(
        "fieldset", tag("legend", "Colours"),
        [
            tag("label", tag("input", type="radio", name="theme", id=f"theme-{name}", checked=name == "system"), name)
            for name in ("system", "light", "dark")
        ],
        class_="themes",
    )  # fmt: skip


def section(name: str, heading: str, *children: object) -> Markup:
    """A part of the page with its heading."""
    return tag("section", tag("h2", heading, id=name), children, aria_labelledby=name)


def lead(*text: object) -> Markup:
    """What a section is about, in a sentence or two."""
    return tag("p", text, class_="lead")


def figure(picture: Markup, caption: object = None, *, legend: object = None) -> Markup:
    """A picture with its caption."""
    return tag("figure", picture, legend, caption and tag("figcaption", caption))


def legend(entries: Mapping[str, str]) -> Markup:
    """Text -> kind of mark."""
    return tag(
        "ul",
        [tag("li", tag("svg", shape(kind, 7, 7), width=14, height=14, aria_hidden="true"), text)
         for text, kind in entries.items()],
        class_="legend",
    )  # fmt: skip


def lines_legend(names: Iterable[str]) -> Markup:
    """Names of the lines of `charts.lines`, in order."""
    return tag(
        "ul",
        [
            tag("li", tag("svg", tag("line", class_=f"series s{n % 6}", x1=0, x2=26, y1=7, y2=7), width=26, height=14,
                          aria_hidden="true"), name)
            for n, name in enumerate(names)
        ],
        class_="legend",
    )  # fmt: skip


def table(
    caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]], *, kinds: Sequence[str | None] = (),
    words: Iterable[int] = (),
) -> Markup:  # fmt: skip
    """A table in a box that scrolls.

    Args:
        caption: What it shows.
        headings: Of the columns.
        rows: Their cells; the first is the row's heading.
        kinds: Class of each row, where it has one.
        words: Columns that hold text instead of figures.
    """
    texts = set(words)

    def style(column: int) -> str | None:
        return "words" if column in texts else None

    body = [
        tag(
            "tr", tag("th", first, scope="row", class_=style(0)),
            [tag("td", cell, class_=style(n)) for n, cell in enumerate(rest, 1)],
            class_=kinds[index] if index < len(kinds) else None,
        )
        for index, (first, *rest) in enumerate(rows)
    ]  # fmt: skip
    head = tag("tr", [tag("th", text, scope="col", class_=style(n)) for n, text in enumerate(headings)])
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(content: Mapping[str, object]) -> Markup:
    """Names and values, one a line."""
    return tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in content.items()], class_="facts")


def warning(heading: str, reasons: Sequence[str]) -> Markup:
    """What keeps figures from being quoted."""
    return tag("div", tag("b", heading), tag("ul", [tag("li", why) for why in reasons]), class_="warning", role="note")


def folded(summary: str, *children: object) -> Markup:
    """Something that is seldom read."""
    return tag("details", tag("summary", summary), children)
