"""Sample images on a build's page: the parent's and the build's boxes side by side.

Rules:
- A picture stands in the page once; the second view uses the first one's.
- Boxes are drawn in the image's own pixels, so they lie where the predictions say, whatever the screen.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from edgeprune.records import Box, Report, Sample
from edgeprune.report.markup import Markup, tag
from edgeprune.report.sheet import lead, section

#: Images no wider than this, in pixels, stand two pairs in a row: enlarging them shows nothing more.
SMALL = 220


def views(report: Report, pictures: Mapping[str, bytes]) -> Markup | None:
    """The section of a build's sample images.

    Args:
        pictures: `Sample.picture` -> JPEG; those that are missing are said to be.
    """
    if not report.samples or report.origin is None:
        return None
    names, result = report.origin.names, report.verdict.comparison
    seen = sorted({box.label for s in report.samples for boxes in (s.truth, s.parent, s.build) for box in boxes})
    swatches = [
        tag("li", tag("span", class_="swatch", style=f"--hue:{_hue(label)}"), names.get(label, str(label)))
        for label in seen
    ]
    swatches.append(tag("li", tag("span", class_="swatch dashed"), "labelled in the data set"))
    return section(
        "samples", "What they see",
        lead(
            f"Images of val, chosen by rule; boxes with a score of {report.sample_score:g} or more. "
            f"Left {result.parent}, right {result.build}."
        ),
        tag("ul", swatches, class_="legend"),
        tag(
            "div",
            [_sample(s, pictures.get(s.picture), names, result.parent, result.build) for s in report.samples],
            class_="samples small" if max(s.size[0] for s in report.samples) <= SMALL else "samples",
        ),
    )  # fmt: skip


def _sample(sample: Sample, jpeg: bytes | None, names: Mapping[int, str], parent: str, build: str) -> Markup:
    width, height = sample.size
    photo = f"photo-{sample.image_id}"
    image: object = tag("text", "no picture", x=width / 2, y=height / 2, text_anchor="middle")
    if jpeg is not None:
        data = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        image = tag("image", id=photo, href=data, width=width, height=height)

    def view(engine: str, boxes: Sequence[Box], pixels: object) -> Markup:
        said = f"{sample.file}, {engine}: {_counted(boxes, names)}"
        return tag(
            "svg", tag("title", said), pixels,
            [_rectangle(box, "labelled", "labelled " + names.get(box.label, str(box.label))) for box in sample.truth],
            [
                (
                    _rectangle(box, "halo"),
                    _rectangle(box, "found", f"{names.get(box.label, box.label)} {box.score:.2f}"),
                )
                for box in reversed(boxes)
            ],
            viewBox=f"0 0 {width} {height}", role="img", aria_label=said, class_="view", data_engine=engine,
        )  # fmt: skip

    return tag(
        "div", view(parent, sample.parent, image),
        view(build, sample.build, tag("use", href=f"#{photo}") if jpeg is not None else image),
        tag("p", f"{parent}: {len(sample.parent)} found"), tag("p", f"{build}: {len(sample.build)} found"),
        tag("p", f"{sample.file}, {len(sample.truth)} labelled; {sample.why}", style="grid-column:1/-1"),
        class_="pair",
    )  # fmt: skip


def _rectangle(box: Box, kind: str, title: str | None = None) -> Markup:
    x, y, width, height = box.bbox
    return tag(
        "rect", title and tag("title", title), class_=kind, x=x, y=y, width=width, height=height,
        style=f"--hue:{_hue(box.label)}" if kind == "found" else None,
    )  # fmt: skip


def _hue(label: int) -> int:
    """Degrees: neighbours among the classes are far apart (the golden angle)."""
    return round(48 + label * 137.508) % 360


def _counted(boxes: Sequence[Box], names: Mapping[int, str]) -> str:
    labels = [box.label for box in boxes]
    return ", ".join(f"{labels.count(n)} {names.get(n, n)}" for n in dict.fromkeys(labels)) or "nothing found"
