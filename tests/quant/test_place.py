"""What is quantized, on the stock families."""

from __future__ import annotations

import pytest
import torch

from edgeprune.quant.place import MOVES, Operator, operators, place
from edgeprune.records import Scheme
from edgeprune.yolo.blocks import float_layers, swap_activation
from edgeprune.yolo.load import untrained

FAMILIES = ("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n", "yolov3-tiny")
NAMES = {0: "a", 1: "b"}
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def program(family: str, activation: str = "keep") -> tuple[torch.nn.Module, tuple[Operator, ...]]:
    model = untrained(f"{family}.yaml", NAMES, seed=0)
    if activation != "keep":
        assert swap_activation(model, activation)
    return model, operators(model, IMAGE)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_convolution_but_the_head_s_last_reads_a_quantized_tensor(family: str) -> None:
    model, found = program(family)
    layers = float_layers(model)
    placed = place(found, Scheme(), layers)
    convolutions = {op.name: op for op in found if op.kind == "conv2d"}
    assert set(placed.convolutions) == set(convolutions) - set(layers)
    makers = {op.name: op for op in found}

    def quantized(name: str) -> bool:
        maker = makers[name]
        return name in placed.points or (maker.kind in MOVES and all(quantized(source) for source in maker.inputs))

    assert all(quantized(convolutions[name].inputs[0]) for name in placed.convolutions)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_the_same_in_training_and_at_another_size(family: str) -> None:
    """A point that was placed in evaluation must be met by the pass that trains."""
    model, found = program(family)
    larger = operators(model, torch.zeros(1, 3, 96, 96))
    assert [op.name for op in larger] == [op.name for op in found]
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    training = {op.name: op.kind for op in operators(model, IMAGE)}
    points = place(found, Scheme(placement="all"), float_layers(model)).points
    assert set(points) <= set(training)
    kinds = {op.name: op.kind for op in found}
    assert all(training[name] == kinds[name] for name in points)


def test_what_meets_in_a_concat_shares_its_scale() -> None:
    model, found = program("yolov8n")
    points = place(found, Scheme(), float_layers(model)).points
    # C2f: the halves of cv1, and every bottleneck's sum, go into one Concat
    assert points["model.4.m.0.cv2.conv>add.0"] == points["model.4.m.1.cv2.conv>add.0"] == "model.4.cv1.conv>act.0"
    # the neck's Concat of an upsampled map and the backbone's
    assert points["model.12.cv2.conv>act.0"] == points["model.4.cv2.conv>act.0"]


def test_a_branch_is_left_to_be_fused_and_the_skip_is_not() -> None:
    model, found = program("yolov8n")
    some = place(found, Scheme(placement="conv-inputs"), float_layers(model)).points
    every = place(found, Scheme(placement="all"), float_layers(model)).points
    assert "model.2.m.0.cv2.conv>act.0" not in some  # the branch's SiLU, read by the addition alone
    assert "model.2.cv1.conv>act.0" in some  # the skip
    assert {"model.2.m.0.cv2.conv>act.0", "model.2.m.0.cv2.conv>act.0:gate", "model.0.conv>batch_norm.0"} <= set(every)
    assert set(some) <= set(every)


def test_nothing_behind_the_head_s_last_convolutions_is_quantized() -> None:
    for scheme in (Scheme(), Scheme(placement="all")):
        model, found = program("yolov8n")
        points = place(found, scheme, float_layers(model)).points
        assert not [
            name for name in points if name.startswith(("model.22.cv2.0.2", "model.22.cv3.0.2", "model.22.dfl"))
        ]
        # … nor what only they read
        assert ("model.22.cv3.0.1.conv>act.0" in points) == (scheme.placement == "all")


@pytest.mark.parametrize(("activations", "folded"), [("asymmetric", True), ("symmetric", False)])
def test_a_relu_s_input_stays_where_saturation_does_its_work(activations: str, folded: bool) -> None:
    model, found = program("yolov8n", "relu")
    points = place(found, Scheme(activations=activations, placement="all"), float_layers(model)).points
    assert ("model.0.conv>batch_norm.0" in points) != folded
    assert "model.0.conv>act.0" in points
    assert not [name for name in points if name.endswith(":gate")]
    # read by the head's float convolution alone, and still the result of one that has to be an integer kernel
    assert ("model.22.cv2.0.1.conv>act.0" in points) == folded


def test_branches_that_export_merges_stay_float() -> None:
    model, found = program("yolov9t")
    placed = place(found, Scheme(), float_layers(model))
    assert placed.convolutions
    assert not [name for name in placed.convolutions if ".conv1.conv" in name]
