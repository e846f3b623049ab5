"""The self-test of a model, in a process of its own: `python -m edgeprune.agent.trial build|test SLOT …`.

Rules:
- Alone in a fresh process, as an application would load it: what crashes or hangs here would there.
- The bundle is whole, for this architecture, and measured on the version of the runtime that is here; an engine of a
  kit is that version's own.
- Golden outputs are compared where the bundle has a kit with them, with the kit's own tolerance; golden detections
  where it has such (runtime/golden.py). In any case the same image gives the same numbers twice, they are finite and of
  the manifest's shapes, and scores are scores.
- Timed from an image's pixels to boxes, as the release's figure was. Another process may be at work meanwhile: the best
  of three medians counts, and the first that is good enough ends it.
- `build` makes the engine of a kit beside the bundle, by the kit's own script with its own gates.

The last line out is a JSON object: {"reason": null, or kind, colon, what happened; "latency_ms"; "peak_bytes";
"runtime"}.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from edgeprune.errors import BundleError, EdgepruneError, ExitCode
from edgeprune.machine import text
from edgeprune.records import Bundle, Kit, read_json
from edgeprune.records.agent import BUNDLE, ENGINE

ROUNDS, WARM_UP = 3, 3
#: Pixels of the image that is looked at: a camera's.
SEEN = (480, 640)
_KINDS = {ExitCode.ARCHITECTURE: "architecture", ExitCode.RUNTIME_VERSION: "runtime"}


def main(arguments: list[str]) -> int:
    what, slot = arguments[0], Path(arguments[1])
    try:
        answer = build(slot) if what == "build" else test(slot, float(arguments[2]), int(arguments[3]))
    except EdgepruneError as error:
        kind = _KINDS.get(error.code, "bundle" if isinstance(error, BundleError) else "runtime")
        answer = {"reason": f"{kind}: {' '.join(str(error).split())}"}
    print(json.dumps(answer), flush=True)
    return 0


def build(slot: Path) -> dict[str, Any]:
    """Build the engine of a slot's kit."""
    from edgeprune.bench.build import build as build_engine
    from edgeprune.records.request import BuildRequest
    from edgeprune.runtime.bundle import open_bundle

    bundle = open_bundle(slot / BUNDLE)
    assert bundle.kit is not None
    precision = "int8" if bundle.precision == "int8" else "fp16"
    request = BuildRequest(kit=f"{BUNDLE}/{bundle.kit.folder}", precision=precision, dla=bundle.profile.dla)
    (slot / ENGINE).mkdir(exist_ok=True)
    built = build_engine(request, slot, slot / ENGINE, lambda what, done, total: None)
    if built.exit_code:
        return {"reason": f"build: exit code {built.exit_code}: {' '.join(built.said.split())}"}
    return {"reason": None}


def test(slot: Path, budget_ms: float, images: int) -> dict[str, Any]:
    """Load a slot's model and look at what it does.

    Args:
        budget_ms: Median that is good enough.
        images: Timed in each round.
    """
    import numpy as np

    from edgeprune.bench.bundle import refuse_architecture, refuse_version
    from edgeprune.runtime.current import load
    from edgeprune.runtime.golden import TOLERATED, difference

    bundle, detector = load(slot, before=lambda bundle: refuse_architecture(bundle, slot))
    if bundle.kit is None:
        refuse_version(bundle, slot, detector.session.runtime)
    answer: dict[str, Any] = {"reason": None, "runtime": detector.session.runtime}
    if bundle.kit is not None:
        answer["reason"] = _golden(read_json(slot / BUNDLE / bundle.engine, Kit, BundleError), slot, bundle, detector)
    elif (differ := difference(bundle.golden, slot / BUNDLE, detector)) > TOLERATED:
        answer["reason"] = f"golden: {differ:.0%} of the golden detections differ, {TOLERATED:.0%} tolerated"
    image = np.random.default_rng(0).integers(0, 256, (*SEEN, 3), np.uint8)
    pixels, placed = detector.prepare(image)
    first, again = ([each.copy() for each in detector.session.run(pixels)] for _ in range(2))
    answer["reason"] = answer["reason"] or _sane(bundle, first, again)
    if answer["reason"]:
        return answer
    found = detector.finish(first, placed)
    if not (np.isfinite(found.boxes).all() and (found.scores >= 0).all() and (found.scores <= 1 + 1e-3).all()):
        return answer | {"reason": "output: boxes or scores that are none"}
    medians: list[float] = []
    for _ in range(WARM_UP):
        detector(image)
    while len(medians) < ROUNDS and min(medians, default=budget_ms + 1) > budget_ms:
        medians.append(statistics.median(sum(detector.timed(image)[1]) / 1e6 for _ in range(images)))
    return answer | {"latency_ms": min(medians), "peak_bytes": peak_bytes()}


def peak_bytes() -> int | None:
    """The most memory that this process has had (proc(5), VmHWM)."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", text(Path("/proc/self/status")) or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _sane(bundle: Bundle, first: list[Any], again: list[Any]) -> str | None:
    import numpy as np

    shapes, wanted = sorted(each.shape for each in first), sorted(output.shape for output in bundle.outputs)
    if shapes != wanted:
        return f"output: shapes {shapes}, {wanted} in the manifest"
    if not all(np.isfinite(each).all() for each in first):
        return "output: numbers that are not finite"
    if not all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(first, again, strict=True)):
        return "output: the same image gives other numbers the second time"
    return None


def _golden(kit: Kit, slot: Path, bundle: Bundle, detector: Any) -> str | None:
    """Why an engine doesn't compute a kit's golden outputs; None where it does."""
    import numpy as np

    from edgeprune.runtime.decode import scores_over

    folder, precision = (slot / BUNDLE / bundle.engine).parent, "int8" if bundle.precision == "int8" else "fp16"
    wanted = next((one for one in kit.golden.expected if one.precision == precision), None)
    if wanted is None:
        return None
    count = kit.golden.images
    images = np.fromfile(folder / kit.golden.input, "<f4").reshape(count, 1, *kit.input.shape[1:])
    reference = np.fromfile(folder / wanted.file, "<f4").reshape(count, *kit.output.shape[1:])
    got = np.concatenate([detector.session.run(image)[0] for image in images])
    counted = scores_over(kit.golden.count_above, reference, got)
    square = (got.astype(np.float64) - reference) ** 2
    boxes = float(np.sqrt(square[:, :4].mean(1)[counted.any(1)].mean()))
    scores = float(np.sqrt(square[:, 4:][counted].mean()))
    if boxes <= wanted.boxes_rms_px and scores <= wanted.scores_rms:
        return None
    return (
        f"golden: boxes {boxes:.3g} px and scores {scores:.3g} off, "
        f"{wanted.boxes_rms_px:g} and {wanted.scores_rms:g} tolerated"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
