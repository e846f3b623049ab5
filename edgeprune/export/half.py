"""The FP16 file for ONNX Runtime, made from the float ONNX file.

Rules:
- Input and output stay float32: whoever runs the engine sees no difference.
- Half precision ends with the head's last convolutions: what makes boxes of them computes in FP32. Coordinates beyond
  512 px are multiples of half a pixel in FP16, and the arithmetic there is a thousandth of the whole. Measured on
  blood cells: at 640 px boxes are off by 0.010 px on average instead of 0.040; at 320 px mAP50-95 is .6178 instead of
  .6170 (FP32 .6175), which is noise.
- The converter is ONNX Runtime's own (onnxruntime.transformers.float16), so are its rules for operators that have no
  FP16 form. It gets the graph up to those convolutions only: told to leave neighbouring nodes alone, it writes casts to
  FP16 and back between them, some under one name (1.31).
- Weights that FP16 can't hold (beyond 65504) are refused; the converter would cut them off in silence.

Sources: IEEE 754 binary16; onnxruntime.transformers.float16.convert_float_to_float16.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgeprune.errors import ExportError

#: The largest finite number in FP16.
LARGEST = 65504.0


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in FP16 up to the head's last convolutions. The model given is used up.

    Raises:
        ExportError: A weight that FP16 can't hold, or a graph that the converter doesn't take.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    for weight in model.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            largest = float(np.abs(numpy_helper.to_array(weight)).max(initial=0))
            if largest > LARGEST:
                raise ExportError(
                    "A weight is too large for FP16.", where=weight.name, expected=f"at most {LARGEST:g}",
                    got=f"{largest:g}", next_step="leave fp16 out of the target's precisions",
                )  # fmt: skip
    last = decoding(model.graph)
    tail = _cut(model, last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each weight that is nearly nothing and becomes it
        made: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    OnnxModel(made).topological_sort()  # the converter appends its casts
    made.graph.node.extend(tail.node)
    made.graph.initializer.extend(tail.initializer)
    del made.graph.output[:], made.graph.value_info[:]
    made.graph.output.extend(tail.output)
    try:
        onnx.checker.check_model(made)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            "The graph can't be made into one in FP16.", got=str(error).splitlines()[0],
            next_step="leave fp16 out of the target's precisions, and report it with the ONNX file",
        ) from error  # fmt: skip
    return made


def decoding(graph: onnx.GraphProto) -> list[int]:
    """Nodes that no convolution comes after and that are none themselves, by index: what makes boxes of the head's raw
    outputs. A convolution into one channel is no layer: it is how the expected value of a distribution is written."""
    wide = {w.name for w in graph.initializer if len(w.dims) > 2 and w.dims[0] > 1}
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    before = [False] * len(graph.node)
    for index in reversed(range(len(graph.node))):  # ONNX files are in topological order
        node = graph.node[index]
        convolves = node.op_type in {"Conv", "ConvTranspose"} and node.input[1] in wide
        before[index] = convolves or any(before[after] for out in node.output for after in readers.get(out, ()))
    return [index for index, is_before in enumerate(before) if not is_before]


def _cut(model: onnx.ModelProto, last: Sequence[int]) -> onnx.GraphProto:
    """Take the last nodes off a model, with weights of their own; its outputs are then what they read of it."""
    known = {value.name: value for value in shape_inference.infer_shapes(model).graph.value_info}
    graph = model.graph
    tail = onnx.GraphProto(node=[graph.node[index] for index in last], output=list(graph.output))
    kept = [node for index, node in enumerate(graph.node) if index not in set(last)]
    made = {name for node in kept for name in node.output}
    wanted = dict.fromkeys(name for node in tail.node for name in node.input)
    of_both = {weight.name for weight in graph.initializer} & {name for node in kept for name in node.input}
    for weight in [weight for weight in graph.initializer if weight.name in wanted]:
        own = onnx.TensorProto()
        own.CopyFrom(weight)
        if weight.name in of_both:
            own.name = f"{weight.name}/float"
            for node in tail.node:
                node.input[:] = [own.name if name == weight.name else name for name in node.input]
        else:
            graph.initializer.remove(weight)
        tail.initializer.append(own)
    outputs = [known[name] for name in wanted if name in made]
    outputs += [output for output in graph.output if output.name in made and output.name not in wanted]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.extend(helper.make_value_info(value.name, value.type) for value in outputs)
    return tail
