"""A detector at any widths, as the graph that its target's runtime would load.

Rules:
- Whole engines go the way that a build goes: cut, fused, exported, coded for the runtime. Which channels stay doesn't
  matter for time, so the first ones do.
- What decodes boxes and scales pixels isn't in these engines where the target may leave that to its runtime: it is the
  same at all widths.
- TensorRT's engines are built by the board: what goes there are graphs in the form of the board's version. A layer
  alone takes and gives floats there, as whole engines do.
- In INT8, scales are those that the model has. Where it has none yet, they come from one image of noise: time depends
  on where numbers are rounded, not on what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from edgeprune.bench.ask import Bench
from edgeprune.export.cuts import head_of
from edgeprune.export.engine import formed
from edgeprune.export.layers import with_floats
from edgeprune.export.lint import TENSORRT
from edgeprune.export.qdq import float_graph, quantized_graph
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.make import require_stride
from edgeprune.prune.traced import channel_graph
from edgeprune.quant import fold
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.records import Quantization, TargetProfile
from edgeprune.records.form import Form
from edgeprune.records.target import own_file
from edgeprune.yolo import blocks
from edgeprune.yolo.load import load_detector

#: Stands for a calibration set where scales come from noise.
NOISE = "0" * 64
#: Of an activation in a net that nobody calibrated; noise may leave a tensor next to 0, with a scale that FP16 hasn't.
LEAST_SCALE = 2.0**-10


@dataclass(frozen=True)
class Subject:
    """What is timed.

    Attributes:
        model: The detector.
        graph: Its channel graph.
        record: Its scales, where the precision is int8.
    """

    model: nn.Module
    graph: ChannelGraph
    costs: CostModel
    profile: TargetProfile
    precision: str
    bench: Bench
    record: Quantization | None

    @classmethod
    def of(
        cls, checkpoint: Path, profile: TargetProfile, precision: str, bench: Bench, record: Quantization | None
    ) -> Subject:
        """Open a checkpoint.

        Args:
            bench: The device.
            record: The checkpoint's scales, if it has any.

        Raises:
            CheckpointError, ModelError, RecipeError: As for a build.
        """
        detector, size = load_detector(checkpoint), profile.input_shape[2:]
        require_stride(detector, size)
        graph = channel_graph(detector.model, size, detector.channels)
        return cls.at_hand(detector.model, graph, profile, precision, bench, record)

    @classmethod
    def at_hand(
        cls, model: nn.Module, graph: ChannelGraph, profile: TargetProfile, precision: str, bench: Bench,
        record: Quantization | None,
    ) -> Subject:  # fmt: skip
        """The same of a model that is open, with its channel graph."""
        record = (record or _noise_scales(model, profile)) if precision == "int8" else None
        return cls(model, graph, CostModel(graph, model), profile, precision, bench, record)

    @cached_property
    def form(self) -> Form:
        """What its engines have: all that can be left to the runtime is, where the target races forms."""
        if not self.profile.races_forms:
            return Form()
        return Form(input="pixels", head="runtime" if head_of(self.source()) else "graph")

    def source(self, widths: Widths | None = None) -> onnx.ModelProto:
        """What engines are built from, at widths of the channel groups; whole without them. The float graph, or the
        quantized one."""
        model, record = self.model, self.record
        if widths is not None:
            keeps = {g.name: tuple(range(int(w))) for g, w in zip(self.graph.groups, widths, strict=True)}
            plan = make_plan(self.graph, self.costs, keeps, importance="", allocation="", channel_multiple=1, seed=0)
            model = apply(model, self.graph, plan, blocks.settle)
            record = record and fold.cut(record, plan.layers)
        size = self.profile.input_shape[2:]
        return quantized_graph(model, record, *size) if record is not None else float_graph(model, *size)

    def alone(self, layer: onnx.ModelProto) -> onnx.ModelProto:
        """A layer that was cut out of a graph that a runtime loads, as the runtime takes it by itself."""
        return with_floats(layer) if self.profile.runtime == TENSORRT else layer

    def onnx(self, widths: Widths | None = None) -> onnx.ModelProto:
        """The graph that the runtime loads, or builds its engine of."""
        return formed(
            self.source(widths), self.profile.runtime, self.bench.architecture, quantized=self.record is not None,
            half=self.half, form=self.form, version=self._version,
        )  # fmt: skip

    @cached_property
    def _version(self) -> str:
        """Of TensorRT on the device, without what its makers add to the numbers."""
        runtime = self.profile.runtime
        return self.bench.versions(runtime)[runtime].split("+")[0] if runtime == TENSORRT else ""

    @property
    def half(self) -> bool:
        """Whether the runtime needs a file of its own for this float precision."""
        return own_file(self.profile.runtime, self.precision)


def _noise_scales(model: nn.Module, profile: TargetProfile) -> Quantization:
    image = np.random.default_rng(0).random((1, *profile.input_shape[1:]), np.float32)
    found = calibrate(
        model, [Image("noise", image)], profile.quantization, blocks.float_layers(model), "minmax", NOISE
    )  # fmt: skip
    scales = {n: a.model_copy(update={"scale": max(a.scale, LEAST_SCALE)}) for n, a in found.activations.items()}
    return found.model_copy(update={"activations": scales})
