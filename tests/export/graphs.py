"""Small ONNX graphs, written by hand: a net that is quantized well, and pieces to build wrong ones from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INT8_ZERO = np.int8(0)


class Net:
    """A graph under construction. Every method adds nodes and returns the tensor that they make; a node 'x' makes
    'x_out'."""

    def __init__(self, opset: int = 18, batch: int | str = 1, channels: int = 8) -> None:
        self.opset, self.random = opset, np.random.default_rng(0)
        self.input = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, 16, 16])
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values: object) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def qdq(
        self, tensor: str, name: str, scale: object = 0.02, zero: object = INT8_ZERO, axis: int | None = None
    ) -> str:
        """Nodes 'NAME/Q' and 'NAME/DQ'."""
        which = {} if axis is None else {"axis": axis}
        pair = [self.constant(f"{name}/scale", np.asarray(scale, np.float32)), self.constant(f"{name}/zero", zero)]
        q = self.node("QuantizeLinear", [tensor, *pair], f"{name}/Q", **which)
        return self.node("DequantizeLinear", [q, *pair], f"{name}/DQ", **which)

    def weights(self, name: str, shape: Sequence[int], axis: int | None = 0) -> str:
        """FP32 -> Q -> DQ with one scale a channel along `axis`; None: float."""
        values = (2 * self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        tensor = self.constant(f"{name}.weight", values)
        if axis is None:
            return tensor
        scales = np.abs(values).max(tuple(d for d in range(len(shape)) if d != axis)) / 127
        return self.qdq(tensor, f"{name}.weight", scales, np.zeros(len(scales), np.int8), axis)

    def conv(
        self,
        tensor: str,
        name: str,
        made: int,
        read: int = 16,
        *,
        kernel: int = 3,
        axis: int | None = 0,
        group: int = 1,
    ) -> str:
        weights = self.weights(name, (made, read // group, kernel, kernel), axis)
        bias = self.constant(f"{name}.bias", self.random.normal(size=made).astype(np.float32))
        return self.node("Conv", [tensor, weights, bias], name, pads=[kernel // 2] * 4, group=group)

    def silu(self, tensor: str, name: str) -> str:
        return self.node("Mul", [tensor, self.node("Sigmoid", [tensor], f"{name}/Sigmoid")], name)

    def block(self, tensor: str, name: str, made: int, read: int = 16, scale: float = 0.02, group: int = 1) -> str:
        """Conv, SiLU, Q/DQ: nodes NAME, NAME/act, NAME/act/Q, NAME/act/DQ."""
        return self.qdq(
            self.silu(self.conv(tensor, name, made, read, group=group), f"{name}/act"), f"{name}/act", scale
        )

    def model(self, result: str) -> onnx.ModelProto:
        made = helper.make_empty_tensor_value_info(result)  # shape inference knows what it is
        graph = helper.make_graph(self.nodes, "net", [self.input], [made], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        return model


def detector(opset: int = 18, *, zero: object = INT8_ZERO, scale: object = 0.02) -> onnx.ModelProto:
    """A net as edgeprune quantizes it: split, residual, concat, pooling, depthwise, nearest resize, a float head and a
    decode with boxes far above 1."""
    net = Net(opset)
    x = net.block(net.qdq("images", "images", scale, zero), "stem", 16, 8)
    net.nodes.append(
        helper.make_node(
            "Split", [x], ["left", "right"], name="split", axis=1, **({"num_outputs": 2} if opset > 17 else {})
        )
    )
    inner = net.silu(net.conv("right", "inner", 8, 8), "inner/act")
    x = net.qdq(net.node("Add", ["right", inner], "add"), "add")
    x = net.node("Concat", ["left", x], "concat", axis=1)
    x = net.block(x, "depthwise", 16, 16, group=16)
    pooled = net.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    sizes = net.constant("sizes", np.array([1, 1, 2, 2], np.float32))
    up = net.node("Resize", [pooled, "", sizes], "up", mode="nearest")
    x = net.block(net.node("Concat", [x, up], "neck", axis=1), "fuse", 16, 32)
    x = net.silu(net.conv(x, "tower", 16, 16), "tower/act")
    boxes = net.node(
        "Mul", [net.conv(x, "boxes", 4, 16, kernel=1, axis=None), net.constant("stride", np.float32(32))], "scaled"
    )
    scores = net.node("Sigmoid", [net.conv(x, "scores", 3, 16, kernel=1, axis=None)], "sigmoid")
    return net.model(net.node("Concat", [boxes, scores], "output0", axis=1))


def image(channels: int = 8) -> np.ndarray:
    """An input that uses the whole range of the first scale."""
    return np.random.default_rng(1).uniform(-2, 2, (1, channels, 16, 16)).astype(np.float32)
