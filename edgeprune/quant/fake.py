"""A model that computes with fake-quantized tensors: the same model, with its scales beside it.

Rules:
- `attach` leaves the model's code and its parameters alone. It adds one submodule, which holds the scales, and
  two hooks, which watch its forward passes; so the stock trainer, its EMA and its checkpoints carry everything,
  and `detach` gives back the stock model and the record.
- Scales are learned as logarithms: a step of Adam then changes every scale by the same share, whatever its size
  (TQT, Jain et al. 2020, section 3.2). The logarithm is that of the factor to the scale in the record, so that a scale
  which hasn't learned is the record's to the bit: SiLU piles values up at its minimum, and where that lies near a tie,
  the last digit of a scale decides of a thousandth of a tensor. They stay FP32 when the model is halved.
- Weights are quantized as they are, before BatchNorm. Scales per output channel commute with a scaling of the
  channel, so BatchNorm may live on while training, and folds into weights and scales alike on export: the
  integers that were trained are the integers that are exported.
- The image's scale doesn't learn where activations are asymmetric: pixels / 255 are 256 numbers, and scale 1/255
  stands for each of them exactly, so that any other could only lose. And an engine may then take pixels for the
  integers that they are (export/cuts.py).
- A tensor is quantized where it is made, once, for all that read it.
- Right after a cut ranges are not learned but *followed*: a net that was cut to half its MACs needs ranges 20 to 60 %
  wider than its parent's, some of them threefold, and would spend its first epochs training against clipping. Each
  scale is then a moving average of what the batches needed (Krishnamoorthi 2018, 'Quantizing deep convolutional
  networks for efficient inference', section 3.1; torch.ao's MovingAverageMinMaxObserver).
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edgeprune.quant.affine import fake_quantize_activation, fake_quantize_weight, scale_for
from edgeprune.quant.watch import IMAGE, Watch
from edgeprune.records.quantization import Affine, Quantization
from edgeprune.yolo.hooks import remove_hooks

#: Name of the submodule that `attach` adds.
SCALES = "edgeprune_scales"
_MIN_SCALE = 1e-12
#: Weight of the newest batch where ranges are followed: the last ten count, a net of a few hundred images has hardly
#: more in an epoch.
_NEWEST = 0.1


class Scales(nn.Module):
    """The scales of one model as parameters.

    Attributes:
        activation: Log of what the scale of every entry of the record's `activations` is multiplied by, in its order.
        weight: The same for the scales of all weights, one after another.
        follow: Whether training follows the activations' ranges instead of learning them.
        exported: The quantized tensors of the last export, in the order in which they were made.
    """

    #: Scales learn this many times as fast as weights. At the weights' own rate a hundred steps move a scale by 3 %,
    #: while the ranges of a net that was cut to half its MACs grow by 20 to 60 %, some of them threefold.
    learning_rate_factor = 10.0

    _activations: torch.Tensor
    _learns: torch.Tensor
    _weights: torch.Tensor

    def __init__(self, record: Quantization, *, follow: bool = False) -> None:
        super().__init__()
        self.record = record
        self.follow = follow
        self.exported: list[str] = []
        # not among the state that an EMA averages
        activations = torch.tensor([entry.scale for entry in record.activations.values()])
        weights = torch.tensor([scale for line in record.weights.values() for scale in line])
        self.register_buffer("_activations", activations, persistent=False)
        self.register_buffer("_weights", weights, persistent=False)
        self.activation = nn.Parameter(torch.zeros_like(activations))
        self.weight = nn.Parameter(torch.zeros_like(weights))
        order = {name: index for index, name in enumerate(record.activations)}
        self.points = {
            point: (order[name], record.activations[name].zero_point) for point, name in record.points.items()
        }
        ends = torch.tensor([len(line) for line in record.weights.values()]).cumsum(0).tolist()
        learns = torch.ones_like(activations)
        if IMAGE in self.points and record.scheme.activations == "asymmetric":
            learns[self.points[IMAGE][0]] = 0
        self.register_buffer("_learns", learns, persistent=False)
        self.slices = dict(zip(record.weights, zip([0, *ends[:-1]], ends, strict=True), strict=True))

    def _apply(self, fn: Any, recurse: bool = True) -> Scales:
        if fn(torch.zeros(1, dtype=torch.float32, device=self.activation.device)).dtype == torch.float16:
            return self  # a scale loses three digits in FP16, and subnormal ones more
        super()._apply(fn, recurse)
        return self

    def scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales of activations and of weights, as they are now."""
        return self._activations * (self.activation * self._learns).exp(), self._weights * self.weight.exp()

    def move_towards(self, needed: Mapping[int, float]) -> None:
        """Move scales towards what a batch needed: place in `activation` -> scale."""
        with torch.no_grad():
            scales = self.scales()[0]
            for index, scale in needed.items():
                moved = scales[index] + _NEWEST * (scale - scales[index])
                self.activation[index] = (moved / self._activations[index]).log()

    def to_record(self) -> Quantization:
        """The record with the scales as they are now."""
        activation, weight = (scales.tolist() for scales in self.scales())
        return self.record.model_copy(
            update={
                "activations": {
                    name: Affine(scale=max(scale, _MIN_SCALE), zero_point=entry.zero_point)
                    for (name, entry), scale in zip(self.record.activations.items(), activation, strict=True)
                },
                "weights": {
                    name: tuple(max(s, _MIN_SCALE) for s in weight[start:end])
                    for name, (start, end) in self.slices.items()
                },
            }
        )


class _FakeQuantized(Watch):
    """The pass of a model with scales attached."""

    def __init__(self, model: nn.Module, scales: Scales) -> None:
        super().__init__(model)
        self.scales = scales
        self._follows = scales.follow and model.training
        self._needed: dict[int, float] = {}
        activation, self._weight_scales = scales.scales()
        self._activation_scales = activation.detach() if self._follows else activation

    def made(self, name: str, kind: str, value: Any, inputs: Any) -> Any:
        if name not in self.scales.points:
            return value
        index, zero_point = self.scales.points[name]
        if kind == "sigmoid" and value is None:
            value = inputs[0].sigmoid()
        scale = self._activation_scales[index : index + 1]
        for tensor in tree_leaves(value) if self._follows else ():
            low, high = torch.aminmax(tensor.detach())
            needed = scale_for(low.item(), high.item(), zero_point)
            if math.isfinite(needed):
                self._needed[index] = max(needed, self._needed.get(index, _MIN_SCALE))
        if isinstance(value, torch.Tensor):
            return self.activation(value, scale, zero_point)
        return type(value)(self.activation(v, scale, zero_point) for v in value)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._follows:
            self.scales.move_towards(self._needed)

    def activation(self, value: torch.Tensor, scale: torch.Tensor, zero_point: int) -> torch.Tensor:
        return fake_quantize_activation(value, scale, zero_point)

    def weight(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        if name not in self.scales.slices:
            return weight
        start, end = self.scales.slices[name]
        return fake_quantize_weight(weight, self._weight_scales[start:end])


class _Exported(_FakeQuantized):
    """The same pass for torch's ONNX exporter: activations become QuantizeLinear and DequantizeLinear; weights stay
    as they are, since the exporter would fold theirs."""

    def activation(self, value: torch.Tensor, scale: torch.Tensor, zero_point: int) -> torch.Tensor:
        result: torch.Tensor = _QdqPair.apply(value, scale.item(), zero_point)
        return result

    def made(self, name: str, kind: str, value: Any, inputs: Any) -> Any:
        if name in self.scales.points:
            self.scales.exported.append(name)
        return super().made(name, kind, value, inputs)

    def weight(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        return weight


class Forced(_FakeQuantized):
    """One pass that goes on, behind every quantized tensor, with values that are given.

    Attributes:
        found: What the model made of the given values, tensor by tensor.
    """

    def __init__(self, model: nn.Module, record: Quantization, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__(model, Scales(record))
        self._values = values
        self.found: dict[str, torch.Tensor] = {}

    def made(self, name: str, kind: str, value: Any, inputs: Any) -> Any:
        value = super().made(name, kind, value, inputs)
        if name not in self._values:
            return value
        self.found[name] = value.detach().clone()
        return self._values[name]


class _QdqPair(torch.autograd.Function):
    """Quantize, then dequantize, as two nodes of ONNX."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
        return value.clone()  # the exporter wants a result of this shape; its numbers are the graph's to compute

    @staticmethod
    def symbolic(g: Any, value: Any, scale: float, zero_point: int) -> Any:
        step = g.op("Constant", value_t=torch.tensor(scale))
        zero = g.op("Constant", value_t=torch.tensor(zero_point, dtype=torch.int8))
        pair = g.op("DequantizeLinear", g.op("QuantizeLinear", value, step, zero), step, zero)
        return pair.setType(value.type())  # shapes go on being known: a chunk behind it becomes a Split


def attach(model: nn.Module, record: Quantization, *, exporting: bool = False, follow: bool = False) -> nn.Module:
    """Make `model` compute with fake-quantized tensors. Mutates and returns it.

    Args:
        model: Takes an image batch (or a dict with one under 'img', as Ultralytics' trainer calls it).
        record: From calibration, or from `detach`.
        exporting: Through operators that the ONNX exporter knows, without gradients.
        follow: In training, follow the activations' ranges instead of learning them.
    """
    scales = Scales(record, follow=follow)
    scales.to(next(model.parameters()).device)
    model.add_module(SCALES, scales)
    model.register_forward_pre_hook(_enter_exported if exporting else _enter)
    model.register_forward_hook(_leave, always_call=True)
    return model


def detach(model: nn.Module) -> Quantization:
    """Take the scales off again; `model` is then as it was before `attach`. Returns the record."""
    scales: Scales = getattr(model, SCALES)
    delattr(model, SCALES)
    remove_hooks(model, lambda hook: hook in {_enter, _enter_exported, _leave})
    return scales.to_record()


def attached(model: nn.Module) -> bool:
    """Whether scales are attached."""
    return hasattr(model, SCALES)


def with_rounded_weights(model: nn.Module, record: Quantization) -> nn.Module:
    """A copy whose weights are what INT8 can hold."""
    rounded = copy.deepcopy(model)
    modules = dict(rounded.named_modules())
    with torch.no_grad():
        for name, scales in record.weights.items():
            weight = modules[name].weight
            weight.copy_(fake_quantize_weight(weight, torch.tensor(scales, device=weight.device)))
    return rounded


#: Passes under way, by model. A hook has nowhere else to keep one: an attribute would be copied and pickled.
_running: weakref.WeakKeyDictionary[nn.Module, _FakeQuantized] = weakref.WeakKeyDictionary()


def _enter(model: nn.Module, args: Any) -> Any:
    return _begin(_FakeQuantized(model, getattr(model, SCALES)), model, args)


def _enter_exported(model: nn.Module, args: Any) -> Any:
    return _begin(_Exported(model, getattr(model, SCALES)), model, args)


def _begin(run: _FakeQuantized, model: nn.Module, args: Any) -> Any:
    image, *rest = args
    given = {**image, "img": run.image(image["img"])} if isinstance(image, Mapping) else run.image(image)
    run.__enter__()
    _running[model] = run
    return (given, *rest)


def _leave(model: nn.Module, args: Any, output: Any) -> None:
    run = _running.pop(model, None)
    if run is not None:
        run.__exit__(None, None, None)
