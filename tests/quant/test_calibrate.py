"""Calibration: what observers choose, and bad input."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from edgeprune.errors import DataError
from edgeprune.quant.calibrate import BINS, DEAD_SCALE, Image, calibrate, choose_range
from edgeprune.records import Quantization, Scheme
from edgeprune.yolo.blocks import float_layers
from edgeprune.yolo.load import untrained

SHA = "0" * 64


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    from tests.mute import give_life

    net = untrained("yolov8n.yaml", {0: "a", 1: "b"}, seed=0)
    give_life(net)
    return net


def pictures(count: int = 4) -> list[Image]:
    random = np.random.default_rng(0)
    return [Image(f"{i}.jpg", random.random((1, 3, 64, 64), dtype=np.float32)) for i in range(count)]


def calibrated(model: torch.nn.Module, images: list[Image], observer: str = "minmax", **scheme: str) -> Quantization:
    return calibrate(model, images, Scheme(**scheme), float_layers(model), observer, SHA)


def test_minmax_takes_the_largest_value_that_was_seen(model: torch.nn.Module) -> None:
    images = pictures()
    record = calibrated(model, images)
    seen = []
    hook = model.model[0].register_forward_hook(lambda _m, _i, out: seen.append(out.abs().max().item()))
    with torch.no_grad():
        for image in images:
            model(torch.from_numpy(image.pixels))
    hook.remove()
    assert record.activations["model.0.conv>act.0"].scale == pytest.approx(max(seen) / 127, rel=1e-6)
    assert record.activations["images"].scale == pytest.approx(1 / 127)
    weight = model.model[0].conv.weight
    assert record.weights["model.0.conv"] == pytest.approx((weight.abs().amax((1, 2, 3)) / 127).tolist())
    assert record.notes == ()


def test_calibration_is_the_same_twice_and_leaves_the_model_alone(model: torch.nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    assert calibrated(model, pictures(), "mse") == calibrated(model, pictures(), "mse")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("observer", ["percentile", "mse", "entropy"])
def test_observers_cut_an_outlier_off_and_keep_what_is_plain(observer: str) -> None:
    values = np.random.default_rng(0).normal(0, 1, 2_000_000)
    counts, _ = np.histogram(values, BINS, (-40.0, 40.0))
    counts = counts.astype(np.float64)
    counts[-1] += 3  # three values at 40
    low, high = choose_range(counts, -40.0, 40.0, observer, symmetric=False)
    assert 2.5 < high < 10  # mse weighs the three against the rounding of two million
    assert -10 < low < -2.5
    flat, _ = np.histogram(np.random.default_rng(1).uniform(0, 6, 500_000), BINS, (0.0, 6.0))
    low, high = choose_range(flat.astype(np.float64), 0.0, 6.0, observer, symmetric=False)
    assert low == 0
    assert high > 5.8


def test_mse_is_the_least_error_that_rounding_can_have() -> None:
    values = np.random.default_rng(0).laplace(0, 1, 200_000)
    counts, edges = np.histogram(values, BINS)
    chosen = choose_range(counts.astype(np.float64), edges[0], edges[-1], "mse", symmetric=True)

    def error(limit: float) -> float:
        scale = limit / 127
        return float(np.square(np.clip(np.rint(values / scale), -127, 127) * scale - values).mean())

    largest = max(-edges[0], edges[-1])
    tried = [error(largest * n / 64) for n in range(1, 65)]
    assert error(max(-chosen[0], chosen[1])) <= 1.05 * min(tried)


def test_asymmetric_uses_all_levels_for_what_is_never_negative() -> None:
    from edgeprune.yolo.blocks import swap_activation
    from tests.mute import give_life

    net = untrained("yolov8n.yaml", {0: "a"}, seed=0)
    give_life(net)
    swap_activation(net, "relu")
    record = calibrated(net, pictures(), activations="asymmetric")
    assert record.activations["model.0.conv>act.0"].zero_point == -128
    assert record.activations["images"].zero_point == -128
    assert record.activations["images"].scale == pytest.approx(1 / 255)


def test_no_image_is_refused(model: torch.nn.Module) -> None:
    with pytest.raises(DataError, match="calibration set is empty"):
        calibrated(model, [])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused_with_tensor_and_image(model: torch.nn.Module, poison: float) -> None:
    images = pictures()
    broken = images[2].pixels.copy()
    broken[0, 0, 5, 5] = poison
    with pytest.raises(DataError, match=r"2\.jpg, tensor images"):
        calibrated(model, [*images[:2], Image("2.jpg", broken), images[3]])
    sick = copy.deepcopy(model)
    with torch.no_grad():
        sick.model[3].conv.weight[0] = poison
    with pytest.raises(DataError, match=r"0\.jpg, tensor model\.3\.conv>act\.0"):
        calibrated(sick, images)


def test_dead_channels_and_tensors_are_named_and_get_a_scale(model: torch.nn.Module) -> None:
    dead = copy.deepcopy(model)
    with torch.no_grad():
        dead.model[1].conv.weight[3] = 0
        dead.model[5].conv.weight.zero_()
        dead.model[5].bn.bias.zero_()
        dead.model[5].bn.running_mean.zero_()
    record = calibrated(dead, pictures())
    assert record.weights["model.1.conv"][3] == DEAD_SCALE
    assert record.activations["model.5.conv>act.0"].scale == DEAD_SCALE
    text = "\n".join(record.notes)
    assert "model.1.conv: 1 of" in text
    assert "tensor model.5.conv>act.0 is zero for every image" in text


def test_an_outlier_image_is_named(model: torch.nn.Module) -> None:
    images = pictures(5)
    wild = Image("wild.jpg", images[1].pixels * 50)  # as a file that was read in 16 bits would be
    record = calibrated(model, [images[0], wild, *images[2:]])
    assert any("wild.jpg" in note for note in record.notes)
