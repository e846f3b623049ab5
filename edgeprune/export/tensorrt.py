"""TensorRT's forms of the quantized graph: one for 8.5 to 10.x, and a typed one for 11.

`tensorrt_form`: the same numbers, said so that every parser since 8.5 takes it.
- Weights as FP32 -> QuantizeLinear -> DequantizeLinear, per channel on axis 0: the one form that all take.
- Every Q and DQ has a third input: zero points 0, int8, of the scale's shape. Bias float.
- An activation's scale is a scalar: a vector of one is read as per channel, and the convolution runs in float.
- Q/DQ again behind a nearest Resize of INT8 values, with their own scale, so exact: TensorRT doesn't move Q/DQ through
  Resize, and the convolution behind it (two of YOLOv8's) ran in float without this.
- Opset 17 where the operators allow it, the newest that 8.5 and 8.6 document: `Split` gets its sizes as an input.
- What can't be said so (another zero point, uint8, a scale per channel of an activation) is refused by name.

`typed_fp16`: TensorRT 11 has no --int8 and no --fp16; types are what the graph says.
- FP16 tensors and scales (opset 19) up to and with the head's last convolutions; after them FP32: boxes go to 640,
  where FP16 has steps of 0.5. Inputs and outputs of the graph stay FP32, through Cast.
- Weights as int8 -> DequantizeLinear with FP16 scales, so that the integers are those of the master. A scale under
  FP16's smallest normal number would lose its digits there: such weights are quantized anew with that number, which
  moves each by at most half of it (3e-5).

Looked at first: onnxruntime.transformers.float16 (1.31). It leaves the nodes in an order that isn't topological,
rounds to FP16 and back between any two nodes that are to stay FP32 (every step of the decode), and rounds weights
before they are quantized.

Sources: NVIDIA, 'Explicit Quantization' and 'Strongly typed networks'; onnx-tensorrt docs/operators.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeprune.errors import ExportError
from edgeprune.export.lint import TENSORRT, errors, lint
from edgeprune.export.rules import OLD_OPSET
from edgeprune.export.view import View, attribute, label

#: First opset whose QuantizeLinear and DequantizeLinear take FP16.
FP16_OPSET = 19
#: FP16's smallest normal and largest number.
SMALLEST, LARGEST = float(np.finfo(np.float16).smallest_normal), float(np.finfo(np.float16).max)
#: Smallest scale of an activation. FP16's steps of 2^-24 change it by 2^-8 at most, and Q and DQ alike: only the range
#: moves. (Of a weight scale nothing undoes the rounding, hence the smallest normal number there.)
SMALLEST_SCALE = 2.0**-17
#: Inputs that stay FP32 in an FP16 node: Resize's scales.
_FLOAT_INPUTS = {("Resize", 2)}


def tensorrt_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as TensorRT 8.5 to 10.x take it. Computes the same numbers; doesn't change `model`.

    Args:
        model: A Q/DQ graph with symmetric int8 activations.

    Raises:
        ExportError: TensorRT can't express it; names the first node.
    """
    form = onnx.ModelProto.FromString(model.SerializeToString())
    _quantize_stored_weights(form)
    _give_zero_points(form)
    _give_scalars(form)
    _quantize_behind_resize(form)
    if found := [f for f in errors(lint(form, TENSORRT, "8.6")) if f.rule != "opset"]:
        raise ExportError(
            f"TensorRT can't express the graph: rule '{found[0].rule}'"
            + (f", and {len(found) - 1} more." if len(found) > 1 else "."),
            where=found[0].node,
            got=found[0].sentence,
            next_step="quantize with `activations: symmetric`; `edgeprune lint FILE --runtime tensorrt --version 10.3`",
        )
    return _older_opset(form)


def typed_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as TensorRT 11 takes it, FP16 and INT8 by its own types. Doesn't change `model`.

    Raises:
        ExportError: TensorRT can't express it, or a number doesn't fit into FP16; names the node.
    """
    form = tensorrt_form(model)
    if View(form).opset < FP16_OPSET:
        try:
            form = onnx.version_converter.convert_version(form, FP16_OPSET)
        except (RuntimeError, onnx.version_converter.ConvertError) as error:
            raise ExportError(
                "ONNX can't convert the graph to the opset that has FP16 quantization.", expected=f"opset {FP16_OPSET}",
                got=f"opset {View(form).opset}: {str(error).splitlines()[0]}",
            ) from error  # fmt: skip
    try:
        return _Typed(form).write()
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError("The graph can't be typed as FP16.", got=str(error).splitlines()[0]) from error


def _quantize_stored_weights(form: onnx.ModelProto) -> None:
    """int8 -> DQ becomes FP32 -> Q -> DQ. Rounding gives the same integers: q * scale / scale is q but for 2^-23."""
    view = View(form)
    nodes = []
    for node in view.nodes:
        stored = view.constant(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if stored is not None and stored.dtype == np.int8:
            weights, scales = f"{node.output[0]}/float", view.scale(node)
            pair = list(node.input[1:])
            form.graph.initializer.append(numpy_helper.from_array(_dequantized(node, stored, scales), weights))
            q = helper.make_node(
                "QuantizeLinear", [weights, *pair], [f"{weights}/integers"], name=f"{label(node)}/Q",
                axis=attribute(node, "axis", 1),
            )  # fmt: skip
            node.input[0] = q.output[0]
            nodes.append(q)
        nodes.append(node)
    _replace(form, nodes)


def _dequantized(
    dq: onnx.NodeProto, integers: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    given = {dq.input[0]: integers, dq.input[1]: scales}
    if len(dq.input) > 2:
        # another zero point than 0 is left to lint, which refuses it
        given[dq.input[2]] = np.zeros(scales.shape, np.int8)
    (values,) = ReferenceEvaluator(dq).run(None, given)
    return np.asarray(values, np.float32)


def _give_zero_points(form: onnx.ModelProto) -> None:
    """A DQ without a zero point has 0; a Q without one is ONNX's uint8, which lint refuses."""
    view = View(form)
    for node in view.nodes:
        lacks = len(node.input) < 3 or not node.input[2]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and lacks and view.integers(node) == "int8":
            zeros = numpy_helper.from_array(np.zeros(view.scale(node).shape, np.int8), f"{node.output[0]}/zero_point")
            form.graph.initializer.append(zeros)
            del node.input[2:]
            node.input.append(zeros.name)


def _give_scalars(form: onnx.ModelProto) -> None:
    view = View(form)
    for node in view.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not view.of_weights(node):
            for index, name in enumerate(node.input):
                values = view.constant(name)
                if index and values is not None and values.shape == (1,):
                    node.input[index] = f"{name}/scalar"
                    if node.input[index] not in {i.name for i in form.graph.initializer}:
                        form.graph.initializer.append(numpy_helper.from_array(values.reshape(()), f"{name}/scalar"))
    _replace(form, view.nodes)


def _quantize_behind_resize(form: onnx.ModelProto) -> None:
    view = View(form)
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    outputs = {o.name for o in form.graph.output}
    for node in view.nodes:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nodes.append(node)
        made = node.output[0] if node.output else ""
        nearest = node.op_type == "Resize" and attribute(node, "mode", b"nearest") == b"nearest" and made not in outputs
        if nearest and view.is_int8(node.input[0]):
            dq = view.arriving(node.input[0])[0]
            if view.scale(dq).size == 1 and {r.op_type for r in view.readers.get(made, ())} != {"QuantizeLinear"}:
                q, again = f"{made}/integers", f"{made}/int8"
                nodes.append(helper.make_node("QuantizeLinear", [made, *dq.input[1:]], [q], name=f"{made}/Q"))
                nodes.append(helper.make_node("DequantizeLinear", [q, *dq.input[1:]], [again], name=f"{made}/DQ"))
                renamed[made] = again
    _replace(form, nodes)


def _older_opset(form: onnx.ModelProto) -> onnx.ModelProto:
    """Declare opset 17 where all operators mean the same there; otherwise leave it, and lint tells 8.x."""
    if View(form).opset <= OLD_OPSET:
        return form
    older = onnx.ModelProto.FromString(form.SerializeToString())
    inferred = onnx.shape_inference.infer_shapes(older)
    shapes = {
        value.name: value.type.tensor_type.shape for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    for node in older.graph.node:
        if node.op_type == "Split" and attribute(node, "num_outputs") is not None:
            axis = attribute(node, "axis", 0)
            sizes = np.array([shapes[output].dim[axis].dim_value for output in node.output], np.int64)
            older.graph.initializer.append(numpy_helper.from_array(sizes, f"{label(node)}/sizes"))
            node.input.append(f"{label(node)}/sizes")
            kept = [a for a in node.attribute if a.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
        if not onnx.defs.has(node.op_type, OLD_OPSET) or {a.name for a in node.attribute} - set(
            onnx.defs.get_schema(node.op_type, OLD_OPSET).attributes
        ):
            return form
    for opset in older.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = OLD_OPSET
    try:
        onnx.checker.check_model(older, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return form  # an operator has other inputs or types there
    return older


class _Typed:
    """A graph on its way to FP16."""

    def __init__(self, form: onnx.ModelProto) -> None:
        self._form = form
        self._view = View(form)
        last = self._view.last_convolutions()
        #: First outputs of the nodes that become FP16.
        self._half = self._view.before(last) | {node.output[0] for node in last}
        graph = onnx.shape_inference.infer_shapes(form, strict_mode=True).graph
        values = (*graph.input, *graph.value_info, *graph.output)
        self._floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._floats |= {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT}
        self._halves: set[str] = set()  # tensors that are FP16 now
        self._new: dict[str, onnx.TensorProto] = {}
        self._casts: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> onnx.ModelProto:
        outputs = {o.name for o in self._form.graph.output}
        for node in self._view.nodes:
            half = node.output[0] in self._half and node.op_type != "Constant"
            if half and node.op_type == "QuantizeLinear" and self._view.of_weights(node):
                continue  # its DQ gets the integers
            if half and node.op_type == "DequantizeLinear" and self._view.of_weights(node):
                self._store_weights(node)
            for index, name in enumerate(node.input):
                if name in self._floats or name in self._halves:
                    node.input[index] = self._read(name, half and (node.op_type, index) not in _FLOAT_INPUTS, node)
            self._nodes.append(node)
            if half:
                self._retype(node)
                for index, name in enumerate(node.output):
                    if name in self._floats and name in outputs:
                        node.output[index] = f"{name}/fp16"
                        self._nodes.append(_cast(f"{name}/fp16", name, TensorProto.FLOAT))
                    elif name in self._floats:
                        self._halves.add(name)
        form = self._form
        form.graph.initializer.extend(self._new.values())
        del form.graph.value_info[:]
        _replace(form, self._nodes)
        onnx.checker.check_model(form, full_check=True)
        return form

    def _read(self, name: str, half: bool, reader: onnx.NodeProto) -> str:
        """The tensor under the type that its reader wants."""
        values = self._view.constant(name)
        if values is not None:
            return self._constant(f"{name}/fp16", values, reader) if half else name
        if half == (name in self._halves):
            return name
        cast = f"{name}/{'fp16' if half else 'fp32'}"
        if cast not in self._casts:
            self._casts.add(cast)
            self._nodes.append(_cast(name, cast, TensorProto.FLOAT16 if half else TensorProto.FLOAT))
        return cast

    def _constant(self, name: str, values: npt.NDArray[np.float32], reader: onnx.NodeProto) -> str:
        is_scale = reader.op_type in ("QuantizeLinear", "DequantizeLinear")
        if values.size and (np.abs(values).max() > LARGEST or (is_scale and values.min() < SMALLEST_SCALE)):
            raise ExportError(
                "A constant doesn't fit into FP16.", where=f"{label(reader)}, {name.removesuffix('/fp16')}",
                expected=f"scales of {SMALLEST_SCALE:.3g} or more" if is_scale else f"magnitudes up to {LARGEST:g}",
                got=f"{values.min():.3g} to {values.max():.3g}", next_step="leave this layer in float",
            )  # fmt: skip
        self._new[name] = numpy_helper.from_array(values.astype(np.float16), name)
        return name

    def _store_weights(self, dq: onnx.NodeProto) -> None:
        """Make a DQ of weights read integers, and scales that FP16 can hold."""
        q = self._view.quantizer_of(dq)
        assert q is not None, "tensorrt_form leaves no stored integers"
        weights, scales = self._view.constant(q.input[0]), self._view.scale(q)
        assert weights is not None
        if scales.min() < SMALLEST:
            scales = np.maximum(scales, np.float32(SMALLEST))
        zeros = np.zeros(scales.shape, np.int8)
        (integers,) = ReferenceEvaluator(q).run(None, dict(zip(q.input, (weights, scales, zeros), strict=True)))
        name = f"{dq.output[0]}/integers"
        self._new[name] = numpy_helper.from_array(np.asarray(integers, np.int8), name)
        dq.input[0] = name
        dq.input[1] = self._constant(f"{dq.output[0]}/scale", scales, dq)

    @staticmethod
    def _retype(node: onnx.NodeProto) -> None:
        for a in node.attribute:
            if node.op_type == "Cast" and a.name == "to" and a.i == TensorProto.FLOAT:
                a.i = TensorProto.FLOAT16
            elif a.type == onnx.AttributeProto.TENSOR and a.t.data_type == TensorProto.FLOAT:
                a.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(a.t).astype(np.float16), a.t.name))


def _cast(source: str, made: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [made], name=f"{made}/Cast", to=to)


def _replace(form: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Put the nodes in, and keep the initializers that are read."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    read = {name for node in copies for name in node.input} | {o.name for o in form.graph.output}
    kept = [i for i in form.graph.initializer if i.name in read]
    kept = [onnx.TensorProto.FromString(i.SerializeToString()) for i in kept]
    del form.graph.node[:]
    form.graph.node.extend(copies)
    del form.graph.initializer[:]
    form.graph.initializer.extend(kept)
