"""From the ONNX file to what each runtime loads.

Rules:
- ONNX Runtime loads the ONNX file itself, or its FP16 form (half.py). OpenVINO makes FP16 of FP32 by itself.
- OpenVINO gets its IR, FP32 weights, in a folder whose name and metadata.yaml make
  `YOLO("…_openvino_model/")` open it. It is read by OpenVINO's own frontend (`Core.read_model`), not by
  the converter tool, which has telemetry.
- Any of them can be had in another form than the stock one (cuts.py): pixels in, or boxes decoded outside.
"""

from __future__ import annotations

import ast
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import yaml

from edgeprune.errors import ExportError, missing_package
from edgeprune.export import forms
from edgeprune.export.cuts import with_pixels, without_decode
from edgeprune.export.half import to_half
from edgeprune.export.lint import TENSORRT, errors, lint, lint_name
from edgeprune.export.onnx import metadata
from edgeprune.records.form import Form
from edgeprune.records.head import KEY


def build_engine(
    runtime: str, onnx_file: Path, folder: Path, architecture: str | None = None, *, quantized: bool = False,
    half: bool = False, form: Form = Form(),  # noqa: B008
) -> Path:  # fmt: skip
    """Make the runtime's artifact from the ONNX file.

    Args:
        runtime: onnxruntime or openvino.
        onnx_file: From `export_onnx`.
        folder: A folder to write into.
        architecture: Of the machine that will load it, as platform.machine() says it; none = this one's.
        quantized: Whether it is the quantized graph, which every runtime takes in its own form (forms.py).
        half: Whether a float graph is to become one in FP16.
        form: What goes in and what comes out (cuts.py).

    Returns:
        The artifact: 'model.onnx', or the folder 'model_openvino_model'.

    Raises:
        ExportError: The runtime can't convert the file, or the model can't have the form (`cuts.forms_of`).
    """
    if not quantized and not half and form.stock:
        return _BUILDERS[runtime](onnx_file, folder)
    with tempfile.TemporaryDirectory() as work:
        loaded, model = Path(work) / onnx_file.name, onnx.load(onnx_file)
        made = formed(model, runtime, architecture or platform.machine(), quantized=quantized, half=half, form=form)
        loaded.write_bytes(made.SerializeToString(deterministic=True))
        return _BUILDERS[runtime](loaded, folder)


def formed(
    model: onnx.ModelProto, runtime: str, architecture: str, *, quantized: bool, half: bool, form: Form,
    version: str = "",
) -> onnx.ModelProto:  # fmt: skip
    """The graph that a runtime loads, or builds its engine of, of the one that every runtime starts from.

    Args:
        model, runtime, architecture, quantized, half, form: As `build_engine`'s; runtime may be tensorrt too.
        version: TensorRT's.
    """
    if form.head == "runtime":
        model = without_decode(model)
    if quantized:
        model = forms.form(model, lint_name(runtime, architecture), version)
    elif runtime == TENSORRT:
        model = forms.float_form(model, version)
    elif half:
        model = to_half(model)
    return with_pixels(model, runtime) if form.input == "pixels" else model


def refuse_misread(onnx_file: Path, runtime: str, architecture: str) -> None:
    """Raise ExportError where the runtime would refuse or misread the quantized graph in its form."""
    name = lint_name(runtime, architecture)
    found = errors(lint(forms.form(onnx.load(onnx_file), name), name))
    if found:
        raise ExportError(
            f"{runtime} would refuse or misread the quantized graph.",
            where=f"{onnx_file}, node {found[0].node}",
            expected=found[0].sentence,
            got=f"{len(found)} findings, the first by rule {found[0].rule}",
            next_step="`edgeprune form` and `edgeprune lint` show them all",
        )


def engine_file(artifact: Path) -> Path:
    """The file that the runtime loads: the artifact itself, or the .xml in its folder."""
    return artifact / "model.xml" if artifact.is_dir() else artifact


def _onnxruntime(onnx_file: Path, folder: Path) -> Path:
    return Path(shutil.copyfile(onnx_file, folder / "model.onnx"))


def _openvino(onnx_file: Path, folder: Path) -> Path:
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", "openvino") from error
    artifact = folder / "model_openvino_model"
    artifact.mkdir()
    try:
        model, said = openvino.Core().read_model(str(onnx_file)), metadata(onnx_file)
        if ".".join(KEY) in said:
            model.set_rt_info(said[".".join(KEY)], list(KEY))
        openvino.save_model(model, str(artifact / "model.xml"), compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(
            "OpenVINO can't convert the ONNX file.", where=onnx_file, got=str(error).splitlines()[0]
        ) from error
    text = yaml.safe_dump({k: plain(v) for k, v in said.items()}, sort_keys=True, allow_unicode=True)
    (artifact / "metadata.yaml").write_text(text, encoding="utf-8")
    return artifact


def plain(value: str) -> object:
    """A value of the ONNX file's metadata, which is text only, as Ultralytics' readers want it: the literal."""
    try:
        literal: object = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
    return list(literal) if isinstance(literal, tuple) else literal


_BUILDERS: dict[str, Callable[[Path, Path], Path]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}
