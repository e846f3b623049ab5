"""The TensorRT gate: NVIDIA's own parser and builder take the graph, and every convolution that should be INT8 is.

It is a build gate and never a deployment target: TensorRT-RTX (a wheel for x86-64 Linux, extra 'tensorrt-rtx') builds
without a GPU and without a driver, but for other chips than Jetson's (it refuses compute capabilities 8.7 and 9.0),
and what it builds is thrown away. The engine for a Jetson is built on the Jetson, by its own TensorRT.

Rules:
- A convolution should be INT8 where its weights are quantized. It is where the layer that computes it takes INT8
  values and INT8 weights, in the builder's own layer information: a convolution whose Q/DQ doesn't fit builds without
  a word and runs in float.
- uint8 activations with zero point 0 are refused here: the parser only warns, and reads them as INT8.
- Builds in a process of its own (gate_worker.py): one logger a process, and a native crash ends only that.

Tried with TensorRT-RTX 1.7.1: YOLOv8n at 320 px in 1 to 2.5 s. It never takes ConvTranspose in INT8, with scales along
axis 1 or for the whole tensor, so only Conv is looked at.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

from edgeprune.errors import ExportError, missing_package
from edgeprune.export import rules
from edgeprune.export.view import View, label
from edgeprune.records.gate import GatedConvolution, GateReport

#: Modules of the wheels 'tensorrt_rtx_cu13_bindings' and 'tensorrt_rtx_cu13_libs'.
MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx_libs")
#: Layers that the builder generates for what lies between kernels. They bear the names of their neighbours too.
_GENERATED = frozenset({"kgen", "signal", "wait"})
#: Convolutions that an error names at most; the report has all.
NAMED = 8
#: Seconds for one build; YOLOv8n takes 2.
LIMIT = 600


def gate(model: onnx.ModelProto, name: str = "model") -> GateReport:
    """Parse and build a graph, and hold every convolution against what it should be.

    Args:
        model: A form from tensorrt.py. Not changed.
        name: For the errors: the file.

    Returns:
        Every Conv with what TensorRT made of it; all that should be INT8 are.

    Raises:
        ExportError: TensorRT refuses the graph, misreads it, or runs a quantized convolution in float; names nodes.
        DeviceError: The wheel isn't installed.
    """
    report = inspect(model, name)
    wrong = [c for c in report.convolutions if not c.holds]
    if wrong:
        raise ExportError(
            f"{len(wrong)} of {len(report.convolutions)} convolutions should be INT8 and aren't.",
            where=", ".join(c.name for c in wrong[:NAMED]) + (", …" if len(wrong) > NAMED else ""), expected="int8",
            got=", ".join(sorted({c.found for c in wrong})),
            next_step="`edgeprune lint FILE --runtime tensorrt --version 10.3` says why",
        )  # fmt: skip
    return report


def inspect(model: onnx.ModelProto, name: str = "model") -> GateReport:
    """What `gate` looks at, without its judgement of single convolutions.

    Raises:
        ExportError: TensorRT refuses or misreads the graph.
        DeviceError: The wheel isn't installed.
    """
    if any(importlib.util.find_spec(module) is None for module in MODULES):
        raise missing_package("tensorrt_rtx_cu13_bindings", "tensorrt-rtx")
    model = named(model)
    view = View(model)
    for node, sentence in rules.unsigned_activation(view):
        raise ExportError(
            "TensorRT would misread or refuse the graph.", where=node if isinstance(node, str) else label(node),
            got=sentence, next_step="build it from the quantized graph with `tensorrt_form`",
        )  # fmt: skip
    answer = _build(model, name)
    if answer["errors"]:
        raise ExportError(
            "TensorRT can't parse the graph." if not answer["parsed"] else "TensorRT can't build the graph.",
            where=name, got=answer["errors"][0],
            next_step="`edgeprune lint FILE --runtime tensorrt --version 10.3` names the rule",
        )  # fmt: skip
    layers: dict[str, dict[str, Any]] = {}
    for layer in answer["layers"]:
        if layer["type"] not in _GENERATED:
            for node_name in layer["nodes"]:
                layers.setdefault(node_name, layer)
    return GateReport(
        builder=answer["builder"],
        convolutions=tuple(
            GatedConvolution(
                name=node.name,
                expected="int8" if view.has_int8_weights(node) else "float",
                found=_type(layers.get(node.name)),
                layer=layers.get(node.name, {}).get("name", ""),
            )
            for node in view.nodes
            if node.op_type == "Conv"
        ),
        warnings=tuple(answer["warnings"]),
    )


def _type(layer: dict[str, Any] | None) -> str:
    if layer is None or not layer["inputs"]:
        return "no layer"
    if layer["inputs"][0] == "Int8" and "Int8" not in layer["constants"]:
        return "int8 with float weights"
    return str(layer["inputs"][0]).lower()


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes all have names of their own: TensorRT reports by name."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{label(node)} ({index})"
        taken.add(node.name)
    return copy


def _build(model: onnx.ModelProto, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file, answer = Path(folder) / "model.onnx", Path(folder) / "answer.json"
        onnx.save(model, file)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "edgeprune.export.gate_worker", str(file), str(answer)],
                capture_output=True, text=True, timeout=LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ExportError("TensorRT doesn't finish the build.", where=name, got=f"{LIMIT} s") from error
        if not answer.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ExportError(
                "TensorRT's builder died.", where=name, expected="exit code 0",
                got=f"exit code {done.returncode}" + (f": {said[-1]}" if said else ""),
            )  # fmt: skip
        content: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return content
