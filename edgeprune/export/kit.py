"""The build kit for a Jetson: everything that a board needs to build, check and race its own engines.

A TensorRT engine runs on the chip and the exact version that built it, so the kit goes out and `build_engine.py`, which
lies in it, builds on the board with the board's own TensorRT.

Rules:
- Two candidates, to be raced there: the quantized graph (INT8, the rest FP16) and the float one (FP16); a build that
  isn't quantized, or a parent to race against, has the second alone. Each twice: for 8.5 to 10.x, which are told their
  types by flags, and typed for 11, which isn't.
- Each form is linted for every version that it claims; one error and there is no kit. Which convolutions must be INT8
  is read from the quantized graph and written down; the board fails if one isn't.
- Golden outputs are the reference's: the form's operators one by one (`open_unoptimised`). How far off an engine may
  be is measured, not guessed: MARGIN times what FP16 between the operators moves these very outputs by (the typed form
  on the same reference), and never under FLOOR. Root mean squares: the largest difference of an INT8 net says little,
  one value on a tie that falls to the other side moves a score by 0.13 (YOLOv8n, COCO).
- What that can tell and what not (YOLOv8n, INT8): two swapped channels in one of 57 convolutions move the outputs by no
  more than rounding does; outputs in another order move scores by 0.5. The golden outputs find an engine that computes
  something else; that a runtime computes each tensor right is what steps.py looks at, on the host.
- Same inputs, same bytes. No clock, no path of this machine. (The golden outputs are sums of floats: another processor,
  or another ONNX Runtime, may round their last bits otherwise.)

Source: NVIDIA, TensorRT support matrix and 'Serialized engines are not portable across platforms or versions'.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import edgeprune.kit
from edgeprune.errors import DataError, ExportError
from edgeprune.export.engine import plain
from edgeprune.export.forms import float_form, form
from edgeprune.export.gate import named
from edgeprune.export.lint import TENSORRT, errors, lint, number_of
from edgeprune.export.onnx import metadata, tensor_specs
from edgeprune.export.view import View, read_model
from edgeprune.records import BundleFile, TensorSpec, write_json
from edgeprune.records.dataset import IMAGE_SUFFIXES, read_dataset
from edgeprune.records.files import move, no_space, sha256_file, write_bytes
from edgeprune.records.kit import Expected, Golden, Kit, KitGraph, KitPrecision
from edgeprune.runtime.decode import scores_over
from edgeprune.runtime.preprocess import Floats, letterbox, read_image
from edgeprune.runtime.session import open_unoptimised
from edgeprune.version import __version__

SCRIPT = "build_engine.py"
#: Versions that forms are linted for: those of JetPack 5 to 7, and the first of each set of rules.
UNTYPED = ("8.5", "8.6", "10.3", "10.7", "10.13")
TYPED = ("11", "11.4")
#: First version that takes its types from the graph alone, and the first that nobody has seen.
_TYPED_SINCE, _UNKNOWN = "11", "12"
#: The typed form on the host is one of many ways to round; a board's kernels add in other orders and fuse in other
#: places. Tried (YOLOv8n, INT8, four COCO images): the typed form moves scores by 0.035 and boxes by 0.45 px,
#: OpenVINO's integer kernels by 0.037 and 0.44 px.
MARGIN = 3.0
#: Least tolerance, as a share of the range (scores: 1, boxes: the input's edge): four of FP16's steps at its end.
FLOOR = 2.0**-9
#: Largest tolerance of scores: beyond it an engine that finds nothing might pass.
_TELLS = 0.25
#: What counts. Most scores are next to 0 whatever is wrong, and there a box is the mean of a flat distribution, which
#: says nothing (see parity.py).
COUNT_ABOVE = 0.1
#: Golden images; 1.2 MB each at 320 px, 4.9 MB at 640.
IMAGES = 4


@dataclass(frozen=True)
class _Candidate:
    precision: KitPrecision
    form: onnx.ModelProto
    typed: onnx.ModelProto


def write_kit(
    quantized: Path | None, float_file: Path, images: Path | Sequence[Path], out: Path, *, oldest: str = "8.5",
    count: int = IMAGES,
) -> Kit:  # fmt: skip
    """Write a build kit into a folder, replacing a kit that is there.

    Args:
        quantized: quantized.onnx or mixed.onnx of an int8 build, with symmetric activations; none for FP16 alone.
        float_file: pruned.onnx of the same build.
        images: Image files, or a folder of them, or a data.yaml, whose val images are taken.
        out: The folder.
        oldest: First version of TensorRT that the kit claims; 8.5 or later.
        count: Golden images, spread evenly over those that there are.

    Raises:
        ExportError: The two files don't belong together, or TensorRT would refuse or misread one; names the node.
        DataError: No images, or one can't be read.
        DeviceError: No space left, or ONNX Runtime isn't installed.
    """
    number_of(TENSORRT, oldest)
    if out.exists() and not (out / "kit.json").is_file() and (out.is_file() or any(out.iterdir())):
        raise ExportError("The folder holds something else.", where=out, expected="a kit, or nothing",
                          next_step="give another folder with --out")  # fmt: skip
    given, made, names = _interface(quantized, float_file)
    pixels = _golden_images(images, names, given, count)
    candidates = _candidates(quantized, float_file)
    claimed = tuple(v for v in UNTYPED if number_of(TENSORRT, v) >= number_of(TENSORRT, oldest))
    for candidate in candidates:
        _refuse_errors(candidate.form, claimed or (oldest,), f"{candidate.precision} graph")
        _refuse_errors(candidate.typed, TYPED, f"typed {candidate.precision} graph")
    with no_space(out), _beside(out) as work:
        folder = work / "kit"
        write_bytes(folder / SCRIPT, (Path(edgeprune.kit.__path__[0]) / SCRIPT).read_bytes())
        (folder / SCRIPT).chmod(0o755)
        write_bytes(folder / "golden/input.f32", pixels.astype("<f4").tobytes())
        graphs, expected = [], []
        for candidate in candidates:
            for model, typed, since, before in (
                (candidate.form, False, oldest, _TYPED_SINCE),
                (candidate.typed, True, _TYPED_SINCE, _UNKNOWN),
            ):
                file = f"graphs/{candidate.precision}{'-typed' if typed else ''}.onnx"
                write_bytes(folder / file, model.SerializeToString(deterministic=True))
                sparse = two_of_four(model)
                graphs.append(
                    KitGraph(
                        file=file, precision=candidate.precision, typed=typed, sparse=sparse, since=since, before=before
                    )
                )
            reference, tolerated = _golden_outputs(candidate, given.name, made, pixels)
            write_bytes(folder / tolerated.file, reference.astype("<f4").tobytes())
            expected.append(tolerated)
        view = View(candidates[0].form)
        kit = Kit(
            edgeprune=__version__,
            files=tuple(
                BundleFile(path=p.relative_to(folder).as_posix(), sha256=sha256_file(p), bytes=p.stat().st_size)
                for p in sorted(p for p in folder.rglob("*") if p.is_file())
            ),
            graphs=tuple(graphs),
            int8_convolutions=tuple(n.name for n in view.nodes if n.op_type == "Conv" and view.has_int8_weights(n)),
            input=given,
            output=made,
            names=names,
            metadata={k: _json(plain(v)) for k, v in metadata(quantized or float_file).items()},
            golden=Golden(
                images=len(pixels), input="golden/input.f32", count_above=COUNT_ABOVE, expected=tuple(expected)
            ),
        )
        write_json(folder / "kit.json", kit)
        move(folder, out)
    return kit


def kit_sha256(folder: Path) -> str:
    """What a board knows the kit by: the hash of kit.json, which has the hashes of all else."""
    return hashlib.sha256((folder / "kit.json").read_bytes()).hexdigest()


def two_of_four(model: onnx.ModelProto) -> bool:
    """Whether some convolution's weights have two zeros in every four neighbours along the input channels.

    Source: TensorRT's developer guide, 'Structured sparsity'.
    """
    view = View(model)
    found = (view.weights(node) for node in view.nodes if node.op_type == "Conv")
    return any(
        w is not None and w.shape[1] % 4 == 0 and ((w != 0).reshape(len(w), -1, 4, *w.shape[2:]).sum(2) <= 2).all()
        for w in found
    )


def _candidates(quantized: Path | None, float_file: Path) -> tuple[_Candidate, ...]:
    plain_model = named(read_model(float_file))
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in plain_model.graph.node):
        raise ExportError("The float file is quantized.", where=float_file, expected="pruned.onnx of the same build",
                          got="QuantizeLinear in it")  # fmt: skip
    float_one = _Candidate("fp16", float_form(plain_model, UNTYPED[0]), float_form(plain_model, TYPED[0]))
    if quantized is None:
        return (float_one,)
    master = named(read_model(quantized))
    return _Candidate("int8", form(master, TENSORRT, UNTYPED[0]), form(master, TENSORRT, TYPED[0])), float_one


def _refuse_errors(model: onnx.ModelProto, versions: Sequence[str], what: str) -> None:
    for version in versions:
        if found := errors(lint(model, TENSORRT, version)):
            raise ExportError(
                f"TensorRT {version} would refuse or misread the {what}.", where=found[0].node,
                expected=found[0].sentence, got=f"{len(found)} findings, the first by rule {found[0].rule}",
                next_step="claim fewer versions with --oldest, or mend the graph; `edgeprune lint` shows all findings",
            )  # fmt: skip


def _interface(quantized: Path | None, float_file: Path) -> tuple[TensorSpec, TensorSpec, dict[int, str]]:
    """Input, output and class names, which both files must have alike."""
    found = []
    for file in (quantized, float_file) if quantized else (float_file,):
        read_model(file)
        given, made = tensor_specs(file)
        found.append((given, made, plain(metadata(file).get("names", ""))))
    if found[0] != found[-1]:
        raise ExportError("The two files aren't of one build.", where=f"{quantized}, {float_file}",
                          expected=_interface_text(*found[0]), got=_interface_text(*found[-1]),
                          next_step="give quantized.onnx (or mixed.onnx) and pruned.onnx of one folder")  # fmt: skip
    given, made, names = found[0]
    if not isinstance(names, dict):
        raise ExportError("The file has no class names.", where=quantized or float_file,
                          expected="'names' in its metadata", next_step="export it with edgeprune")  # fmt: skip
    if len(made) != 1 or len(given.shape) != 4 or made[0].shape[:2] != (1, 4 + len(names)):
        raise ExportError("The graph isn't a detector with a raw head.", where=quantized or float_file,
                          expected=f"one output of shape (1, {4 + len(names)}, anchors)",
                          got=", ".join(str(o.shape) for o in made))  # fmt: skip
    return given, made[0], {int(k): str(v) for k, v in names.items()}


def _interface_text(given: TensorSpec, made: tuple[TensorSpec, ...], names: Any) -> str:
    return f"{given.name} {given.shape} -> {', '.join(f'{o.name} {o.shape}' for o in made)}, classes {names}"


def _golden_images(images: Path | Sequence[Path], names: dict[int, str], given: TensorSpec, count: int) -> Floats:
    if not isinstance(images, Path):
        files = tuple(images)
    elif images.is_dir():
        files = tuple(sorted(p for p in images.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES))
    else:
        data = read_dataset(images)
        files = data.splits["val"]
        if data.names != names:
            raise DataError("The data set's classes are not the model's.", where=images, expected=names, got=data.names)
    if not files:
        raise DataError("There are no images for the golden outputs.", where=images, expected="an image file at least",
                        next_step="give --images a folder of images, or a data.yaml")  # fmt: skip
    count = min(count, len(files))
    chosen = [files[index * len(files) // count] for index in range(count)]
    return np.concatenate([letterbox(read_image(file), *given.shape[2:])[0] for file in chosen])


def _golden_outputs(candidate: _Candidate, name: str, made: TensorSpec, pixels: Floats) -> tuple[Floats, Expected]:
    def run(model: onnx.ModelProto) -> Floats:
        session = open_unoptimised(model.SerializeToString())
        return np.concatenate([session({name: image[None]})[made.name] for image in pixels])

    reference, rounded = run(candidate.form), run(candidate.typed)
    boxes, scores = differences(reference, rounded)
    edge = max(pixels.shape[2:])
    if not np.isfinite(rounded).all() or MARGIN * scores > _TELLS:
        raise ExportError(
            f"FP16 alone changes the {candidate.precision} outputs so much that golden outputs say nothing.",
            where="--images", expected=f"scores that FP16 moves by {_TELLS / MARGIN:.3g} at most, root mean square",
            got=f"{scores:.3g}",
            next_step="give images like those that the model was trained on",
        )  # fmt: skip
    return reference, Expected(
        precision=candidate.precision, file=f"golden/{candidate.precision}.f32",
        # three digits, upwards: what is written is what is compared
        boxes_rms_px=_up(max(MARGIN * boxes, FLOOR * edge)), scores_rms=_up(max(MARGIN * scores, FLOOR)),
        reason=f"{MARGIN:g} times what FP16 between the operators moves these outputs by on the host "
        f"(boxes {boxes:.3g} px, scores {scores:.3g}; root mean squares), and at least 2^-9 of the range",
    )  # fmt: skip


def differences(reference: Floats, got: Floats) -> tuple[float, float]:
    """Root mean square differences of boxes in pixels and of scores, where they count; outputs of shape
    (n, 4 + classes, anchors). build_engine.py has the same without numpy."""
    square = (got.astype(np.float64) - reference) ** 2
    counted = scores_over(COUNT_ABOVE, reference, got)
    boxes, scores = square[:, :4].mean(1)[counted.any(1)], square[:, 4:][counted]
    return float(np.sqrt(boxes.mean())), float(np.sqrt(scores.mean()))


def _up(value: float) -> float:
    digits = 10.0 ** (np.floor(np.log10(value)) - 2)
    return float(f"{np.ceil(value / digits) * digits:.3g}")


def _json(value: Any) -> Any:
    """Keys as JSON has them."""
    if isinstance(value, dict):
        return {str(k): _json(v) for k, v in value.items()}
    return [_json(v) for v in value] if isinstance(value, list | tuple) else value


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder on the same disk, which goes whatever happens."""
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}.") as work:
        yield Path(work)
