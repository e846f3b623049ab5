"""Rounding: bit for bit ONNX's, and LSQ's gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeprune.quant.affine import (
    HIGH,
    LIMIT,
    LOW,
    asymmetric,
    dequantize,
    fake_quantize_activation,
    fake_quantize_weight,
    quantize,
    scale_for,
    symmetric,
)


def onnx_pair(x: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int | None = None) -> list[np.ndarray]:
    """What ONNX's reference evaluator makes of Q and of Q -> DQ."""
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
    ]
    ends = [helper.make_tensor_value_info(n, t, None) for n, t in (("q", TensorProto.INT8), ("y", TensorProto.FLOAT))]
    graph = helper.make_graph(
        nodes, "pair", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], ends,
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")],
    )  # fmt: skip
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])).run(None, {"x": x})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e3), st.integers(-128, 127))
def test_activations_are_rounded_as_onnx_rounds_to_the_bit(seed: int, scale: float, zero: int) -> None:
    random = np.random.default_rng(seed)
    step = np.float32(scale)
    ties = (random.integers(-300, 300, 500) + 0.5).astype(np.float32) * step  # halfway, and far outside
    x = np.concatenate([ties, random.normal(0, 60 * step, 500).astype(np.float32), np.zeros(1, np.float32)])
    q, y = onnx_pair(x, np.array(step), np.array(zero, np.int8))
    given_x, given_scale = torch.from_numpy(x), torch.tensor([step])
    integers = quantize(given_x, given_scale, zero)
    assert np.array_equal(integers.numpy(), q.astype(np.float32))
    assert np.array_equal(dequantize(integers, given_scale, zero).numpy(), y)
    assert np.array_equal(fake_quantize_activation(given_x[None], given_scale, zero)[0].numpy(), y)


def test_weights_are_rounded_as_onnx_rounds_channel_by_channel() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(16, 8, 3, 3)).astype(np.float32)
    scale = (np.abs(weight).max((1, 2, 3)) / LIMIT).astype(np.float32)
    _, y = onnx_pair(weight, scale, np.zeros(16, np.int8), axis=0)
    assert np.array_equal(fake_quantize_weight(torch.from_numpy(weight), torch.from_numpy(scale)).numpy(), y)


def test_a_weight_never_takes_the_integer_that_has_no_opposite() -> None:
    weight = torch.tensor([-1.0, 1.0]).reshape(1, 2)
    rounded = fake_quantize_weight(weight, torch.tensor([1 / 128]))
    assert torch.equal(rounded, torch.tensor([[-127 / 128, 127 / 128]]))


def test_torch_own_operator_differs_by_a_step_and_only_on_ties() -> None:
    """Why it isn't used: it multiplies by the reciprocal, and adds the zero point before it rounds."""
    scale, zero = 0.1, 3
    ties = (torch.arange(-100, 100) + 0.5) * torch.tensor(scale)
    inside = torch.linspace(-9, 9, 20_001)
    for x, most in ((ties, 1), (inside, 1)):
        ours = fake_quantize_activation(x[None], torch.tensor([scale]), zero)[0]
        theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero, LOW, HIGH)
        steps = ((ours - theirs) / scale).round().abs()
        assert steps.max() <= most
        halfway = ((x / scale) % 1 - 0.5).abs() < 1e-4
        assert not steps[~halfway].any()


def test_the_gradient_of_a_scale_is_lsq() -> None:
    """Esser et al. 2020, eq. 3: q where saturated, round(x / s) - x / s elsewhere; times 1 / sqrt(N Q)."""
    x = torch.tensor([[-5.0, -0.34, 0.0, 0.27, 1.4, 100.0]], requires_grad=True)
    scale = torch.tensor([0.1], requires_grad=True)
    up = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    (fake_quantize_activation(x, scale, 0) * up).sum().backward()
    v = x.detach() / 0.1
    slope = torch.where(v < LOW, LOW, torch.where(v > HIGH, HIGH, v.round() - v))
    expected = (slope * up).sum() / (6 * HIGH) ** 0.5
    assert scale.grad is not None
    assert torch.allclose(scale.grad, expected[None], rtol=1e-4)
    assert torch.equal(x.grad, torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 0.0]]))  # straight through, but for the last


def test_a_weight_scale_learns_from_its_own_channel_alone() -> None:
    weight = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    scale = torch.full((3,), 0.01, requires_grad=True)
    fake_quantize_weight(weight, scale)[1].sum().backward()
    assert scale.grad is not None
    assert scale.grad[1] != 0
    assert scale.grad[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-0.278, 4.1), (-3.0, 0.0), (0.5, 2.0)])
def test_zero_is_exact_in_an_asymmetric_range(low: float, high: float) -> None:
    scale, zero = asymmetric(low, high)
    assert LOW <= zero <= HIGH
    ends = fake_quantize_activation(torch.tensor([[0.0, min(low, 0), max(high, 0)]]), torch.tensor([scale]), zero)
    assert ends[0, 0] == 0
    assert torch.allclose(ends[0, 1:], torch.tensor([min(low, 0), max(high, 0)]), atol=scale)


def test_a_symmetric_range_has_zero_point_zero() -> None:
    assert symmetric(12.7) == (pytest.approx(0.1), 0)


@pytest.mark.parametrize(
    ("low", "high", "zero", "expected"),
    [
        (-1.0, 12.7, 0, 0.1),  # the upper end decides
        (-25.6, 12.7, 0, 0.2),  # the lower one
        (0.0, 25.5, -128, 0.1),  # a ReLU under the asymmetric scheme
        (-1.0, 0.0, 127, 1 / 255),
        (3.0, 5.0, 127, 0.0),  # nothing to hold: all of it saturates whatever the scale
    ],
)
def test_the_least_scale_holds_both_ends(low: float, high: float, zero: int, expected: float) -> None:
    assert scale_for(low, high, zero) == pytest.approx(expected)
