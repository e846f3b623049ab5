"""Scales on a model: they come, learn, travel and go."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from edgeprune.quant.affine import fake_quantize_weight, scale_for
from edgeprune.quant.fake import SCALES, Forced, attach, attached, detach
from edgeprune.records import Quantization, Scheme
from edgeprune.yolo.load import untrained
from tests.quant.test_calibrate import calibrated, pictures


@pytest.fixture(scope="module")
def net() -> tuple[torch.nn.Module, Quantization]:
    from tests.mute import give_life

    model = untrained("yolov8n.yaml", {0: "a", 1: "b"}, seed=0)
    give_life(model)
    return model, calibrated(model, pictures(), activations="asymmetric")


IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def output(model: torch.nn.Module, image: torch.Tensor = IMAGE) -> torch.Tensor:
    with torch.no_grad():
        return model(image)[0]


def test_a_model_is_itself_again_after_detach(net: tuple[torch.nn.Module, Quantization]) -> None:
    model, record = copy.deepcopy(net[0]), net[1]
    before, keys = output(model), set(model.state_dict())
    attach(model, record)
    assert attached(model)
    during = output(model)
    assert not torch.equal(before, during)
    assert (before - during).abs().mean() < 0.2 * before.abs().mean()  # quantized, not broken
    returned = detach(model)
    assert not attached(model)
    assert torch.equal(output(model), before)
    assert set(model.state_dict()) == keys
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert returned.points == record.points
    for name, entry in record.activations.items():
        assert returned.activations[name].scale == pytest.approx(entry.scale, rel=1e-5)


def test_every_point_is_on_its_grid(net: tuple[torch.nn.Module, Quantization]) -> None:
    model, record = net
    values = {point: torch.zeros(0) for point in record.points}
    seen = Forced(copy.deepcopy(model), record, {})
    run = {}
    made = seen.made

    def note(name: str, kind: str, value: object, inputs: object) -> object:
        result = made(name, kind, value, inputs)
        if name in values:
            run[name] = result
        return result

    seen.made = note  # type: ignore[method-assign]
    seen.run(IMAGE)
    assert set(run) == set(values)
    for point, value in run.items():
        entry = record.activations[record.points[point]]
        steps = value / entry.scale + entry.zero_point
        assert (steps - steps.round()).abs().max() < 1e-3
        assert steps.min() >= -128.001
        assert steps.max() <= 127.001


def test_a_copy_and_a_pickle_carry_the_scales(net: tuple[torch.nn.Module, Quantization]) -> None:
    model = attach(copy.deepcopy(net[0]), net[1])
    expected = output(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        getattr(twin, SCALES).activation.add_(1.0)
    assert not torch.equal(output(twin), expected)
    assert torch.equal(output(model), expected)  # the copy's hooks belong to the copy
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(output(torch.load(buffer, weights_only=False)), expected)


def test_scales_stay_whole_when_the_model_is_halved(net: tuple[torch.nn.Module, Quantization]) -> None:
    model = attach(copy.deepcopy(net[0]), net[1])
    before = getattr(model, SCALES).weight.detach().clone()
    model.half().float()
    assert torch.equal(getattr(model, SCALES).weight, before)


def test_weights_and_scales_learn(net: tuple[torch.nn.Module, Quantization]) -> None:
    model = attach(copy.deepcopy(net[0]).requires_grad_(True), net[1]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    predictions = model(IMAGE)
    (predictions["scores"].square().mean() + predictions["boxes"].square().mean()).backward()
    optimizer.step()
    for name in (f"{SCALES}.activation", f"{SCALES}.weight", "model.0.conv.weight"):
        changed = before[name] != dict(model.named_parameters())[name]
        assert changed.float().mean() > 0.9, name


def test_scales_that_have_not_learned_are_the_record_s_to_the_bit(net: tuple[torch.nn.Module, Quantization]) -> None:
    record = net[1]
    returned = detach(attach(copy.deepcopy(net[0]), record).half().float())
    for name, entry in record.activations.items():
        assert returned.activations[name].scale == np.float32(entry.scale)
    for name, line in record.weights.items():
        assert np.array_equal(np.array(returned.weights[name], np.float32), np.array(line, np.float32))


def test_ranges_are_followed_in_training_and_not_learned(net: tuple[torch.nn.Module, Quantization]) -> None:
    """Scales that a cut has left far too small reach what the batches need, the widest member of a Concat deciding."""
    model, record = net
    small = {name: entry.model_copy(update={"scale": 0.2 * entry.scale}) for name, entry in record.activations.items()}
    model = attach(
        copy.deepcopy(model).requires_grad_(True), record.model_copy(update={"activations": small}), follow=True
    )
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    scales = getattr(model, SCALES)
    output(model.eval())
    assert not scales.activation.any()  # evaluation looks on
    for _ in range(39):
        with torch.no_grad():
            model.train()(IMAGE)
    predictions = model.train()(IMAGE)
    predictions["scores"].square().mean().backward()
    assert scales.activation.grad is None
    assert scales.weight.grad is not None
    found = detach(model)
    needed = Needed(model, found)
    needed.run(IMAGE)
    shared = [name for name in needed.of if list(record.points.values()).count(name) > 1]
    assert len(shared) > 5
    ratios = {name: found.activations[name].scale / scale for name, scale in needed.of.items() if name != "images"}
    assert max(ratios.values()) < 2  # the last layers see batches of a few pixels, which never quite settle
    assert min(ratios.values()) > 0.5
    assert np.median(list(ratios.values())) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("follow", [False, True])
def test_the_image_s_integers_stay_its_pixels(net: tuple[torch.nn.Module, Quantization], follow: bool) -> None:
    record = net[1]
    model = attach(copy.deepcopy(net[0]).requires_grad_(True), record, follow=follow).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        predictions = model(3 * IMAGE)  # brighter than any image: a range that learned would widen
        (predictions["scores"].square().mean() + predictions["boxes"].square().mean()).backward()
        optimizer.step()
    kept = detach(model).activations["images"]
    assert (kept.scale, kept.zero_point) == (np.float32(1 / 255), -128)
    symmetric = record.model_copy(update={"scheme": Scheme(activations="symmetric")})
    learning = attach(copy.deepcopy(net[0]), symmetric, follow=True).train()
    learning(3 * IMAGE)
    assert detach(learning).activations["images"].scale > 1.1 / 255


class Needed(Forced):
    """The least scale with which no value is saturated, over all tensors that share it."""

    def __init__(self, model: torch.nn.Module, record: Quantization) -> None:
        super().__init__(model, record, {})
        self.record, self.of = record, dict[str, float]()

    def made(self, name: str, kind: str, value: object, inputs: object) -> object:
        if name in self.record.points and (isinstance(value, torch.Tensor) or kind == "sigmoid"):
            shown = inputs[0].sigmoid() if value is None else value  # type: ignore[index]
            group = self.record.points[name]
            least = scale_for(shown.min().item(), shown.max().item(), self.record.activations[group].zero_point)
            self.of[group] = max(least, self.of.get(group, 0.0))
        return super().made(name, kind, value, inputs)


def test_an_exception_inside_leaves_nothing_behind(net: tuple[torch.nn.Module, Quantization]) -> None:
    model = attach(copy.deepcopy(net[0]), net[1])
    expected = output(model)
    with pytest.raises(RuntimeError):
        model(torch.rand(1, 5, 64, 64))
    assert torch.equal(output(model), expected)
    assert torch.nn.functional.silu(torch.ones(1)) == torch.ones(1) * torch.sigmoid(torch.ones(1))


def test_another_model_in_the_same_pass_is_left_alone(net: tuple[torch.nn.Module, Quantization]) -> None:
    """A parent that teaches runs inside the student's forward, where the loss is computed."""
    model, record = net
    parent = copy.deepcopy(model)
    expected = output(parent)
    student = attach(copy.deepcopy(model), record)
    caught = []
    student.model[-1].register_forward_hook(lambda _m, _i, _o: caught.append(output(parent)))
    alone = output(attach(copy.deepcopy(model), record))
    assert torch.equal(output(student), alone)
    assert torch.equal(caught[0], expected)


def test_a_weight_is_computed_with_as_int8_can_hold_it(net: tuple[torch.nn.Module, Quantization]) -> None:
    model, record = net
    only_weights = record.model_copy(update={"points": {}})
    quantized = output(attach(copy.deepcopy(model), only_weights))
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for name, scales in record.weights.items():
            weight = rounded.get_submodule(name).weight
            weight.copy_(fake_quantize_weight(weight, torch.tensor(scales)))
    assert torch.allclose(quantized, output(rounded), atol=1e-4)


def test_a_record_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="isn't among the activations"):
        Quantization(
            scheme=Scheme(), activations={}, points={"images": "images"}, weights={}, calibration_sha256="0" * 64,
            observer="minmax",
        )  # fmt: skip
