"""An application on a device, as short as one can be: it detects with the model that is current, and follows updates.

    python -m edgeprune.agent.example /var/lib/edgeprune --images DIR      # a folder of images, again and again
    python -m edgeprune.agent.example /var/lib/edgeprune --camera 0        # a camera (extra `camera`)

Rules:
- One JSON object a line: release, image, boxes ([x0, y0, x1, y1, score, class] in pixels). An update shows as another
  release from one line to the next; the process stays.
- `CurrentModel` does it all: it follows, counts, and writes the heartbeat that the agent watches.

Exit codes: 0 stopped, or all images done (`--once`); 2 the user's to mend.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from edgeprune.errors import DataError, EdgepruneError
from edgeprune.runtime.current import SCORE, CurrentModel
from edgeprune.runtime.preprocess import Pixels, read_image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edgeprune.agent.example", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the agent's")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="folder with images")
    source.add_argument("--camera", help="number of /dev/videoN, or its path")
    parser.add_argument("--once", action="store_true", help="end after the last image of the folder")
    parser.add_argument("--every", type=float, default=0.0, metavar="S", help="seconds between images")
    parser.add_argument("--score", type=float, default=SCORE, help="detections at or under it are dropped")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with ExitStack() as stack:
            model = CurrentModel(options.folder, score=options.score)
            images = _camera(options.camera, stack) if options.camera else _folder(options.images, options.once)
            for name, image in images:
                _answer(model, name, image)
                time.sleep(options.every)
    except EdgepruneError as error:
        print(f"edgeprune example: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    return 0


def _answer(model: CurrentModel, name: str, image: Pixels | None) -> None:
    if image is None:
        model.count(failed=True)
        return
    found = model(image)
    boxes = [
        [*(round(float(edge), 1) for edge in box), round(float(score), 3), model.bundle.names[int(label)]]
        for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True)
    ]
    line = {"release": model.counter, "image": name, "boxes": boxes}
    print(json.dumps(line | ({"trouble": model.trouble} if model.trouble else {})), flush=True)


def _folder(folder: Path, once: bool) -> Iterator[tuple[str, Pixels | None]]:
    """Images of a folder; None for one that can't be read."""
    while True:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError("There are no images.", where=folder, expected=", ".join(sorted(SUFFIXES)))
        for file in files:
            try:
                yield file.name, read_image(file)
            except DataError:
                yield file.name, None
        if once:
            return


def _camera(source: str, stack: ExitStack) -> Iterator[tuple[str, Pixels | None]]:
    from edgeprune.bench.camera import open_camera

    camera = stack.enter_context(open_camera(source))
    while True:
        yield camera.mode.source, camera.frame()


if __name__ == "__main__":
    sys.exit(main())
