"""HTML and SVG as Python calls: what is text stays text.

Rules:
- A child that isn't `Markup` is escaped, and so is every attribute's value: a name out of a data set, a path or a
  sensor can't become markup. Only `tag` and `join` make `Markup`.
- The pages that are made of it have no script at all.

Source: HTML Living Standard, section 13.3, 'Serializing HTML fragments' (what must be escaped where).
"""

from __future__ import annotations

import html
from collections.abc import Iterable

#: Elements that have no end tag.
_VOID = frozenset({"img", "input", "br", "meta", "wbr"})

Child = object


class Markup(str):
    """Text that is markup already. An f-string or a sum of it is plain text again, and would be escaped."""

    __slots__ = ()


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element.

    Args:
        name: Of the element.
        children: Text and numbers (escaped), `Markup`, sequences of those; None and False are left out.
        attributes: `class_` is class, `font_size` is font-size; None and False are left out, True stands alone.
    """
    opened = "".join(f" {_name(key)}{_value(value)}" for key, value in attributes.items() if _said(value))
    if name in _VOID:
        return Markup(f"<{name}{opened}>")
    return Markup(f"<{name}{opened}>{join(children)}</{name}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after another."""
    return Markup("".join(_text(child) for child in children))


def _said(value: object) -> bool:
    return value is not None and value is not False  # 0 is a coordinate


def _text(child: Child) -> str:
    if not _said(child):
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, (list, tuple)):
        return join(child)
    return html.escape(_number(child), quote=False)


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return "" if value is True else f'="{html.escape(_number(value))}"'


def _number(value: object) -> str:
    """Floats as coordinates: a hundredth of a pixel is enough."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
