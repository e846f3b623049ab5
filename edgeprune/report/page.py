"""An explanation as one HTML page.

Rules:
- The page is whole: styles, script and data stand in the one file, and its policy forbids every request.
- Nothing of the model can become markup: the data are JSON in which no tag can end, and the page's script
  puts them in as text.

Source: HTML Living Standard, section 4.12.1.3, 'Restrictions for contents of script elements'.
"""

from __future__ import annotations

import html
import json
from importlib.resources import files

from edgeprune.report.explanation import Explanation


def page(explanation: Explanation) -> bytes:
    """The page as UTF-8; the same explanation gives the same bytes."""
    template = files("edgeprune.report").joinpath("explain.html").read_text("utf-8")
    before, _, rest = template.partition("__TITLE__")
    middle, _, after = rest.partition("__EXPLANATION__")
    title = html.escape(f"{explanation.model}: channel groups")
    return f"{before}{title}{middle}{_embedded(explanation)}{after}".encode()


def _embedded(explanation: Explanation) -> str:
    """JSON that can stand inside a script element: without '<' neither '</script' nor '<!--' can occur."""
    return json.dumps(explanation.as_json(), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
