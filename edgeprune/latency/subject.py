"""A detector at any widths, as the graph that its target's runtime would load.

Rules:
- Whole engines go the way that a build goes: cut, fused, exported, coded for the runtime. Which channels stay doesn't
  matter for time, so the first ones do.
- In INT8, scales are those that the model has. Where it has none yet, they come from one image of noise: time depends
  on where numbers are rounded, not on what they are.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgeprune.errors import ProfileError
from edgeprune.export.forms import form
from edgeprune.export.half import to_half
from edgeprune.export.lint import lint_name
from edgeprune.export.qdq import float_graph, quantized_graph
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel, Widths
from edgeprune.prune.apply import apply, make_plan
from edgeprune.prune.make import channel_graph, require_stride
from edgeprune.quant import fold
from edgeprune.quant.calibrate import Image, calibrate
from edgeprune.records import Quantization, TargetProfile
from edgeprune.records.target import own_file
from edgeprune.yolo import blocks
from edgeprune.yolo.load import Detector, load_detector

#: Stands for a calibration set where scales come from noise.
NOISE = "0" * 64


@dataclass(frozen=True)
class Subject:
    """What is timed.

    Attributes:
        graph: The detector's channel graph.
        record: Its scales, where the precision is int8.
    """

    detector: Detector
    graph: ChannelGraph
    costs: CostModel
    profile: TargetProfile
    precision: str
    architecture: str
    record: Quantization | None

    @classmethod
    def of(
        cls, checkpoint: Path, profile: TargetProfile, precision: str, architecture: str | None = None,
        record: Quantization | None = None,
    ) -> Subject:  # fmt: skip
        """Open a checkpoint.

        Args:
            architecture: Of the device, as platform.machine() says it; none = this machine's.
            record: The checkpoint's scales, if it has any.

        Raises:
            ProfileError: The target's engines are built by the device itself.
            CheckpointError, ModelError, RecipeError: As for a build.
        """
        if profile.runtime == "tensorrt":
            raise ProfileError(
                "A latency table can't be made for TensorRT yet.", where="runtime", expected="onnxruntime or openvino",
                got=profile.runtime, next_step="prune by macs_ratio; the board races what comes of it all the same",
            )  # fmt: skip
        detector, size = load_detector(checkpoint), profile.input_shape[2:]
        require_stride(detector, size)
        graph = channel_graph(detector.model, size, detector.channels)
        if precision == "int8" and record is None:
            record = _noise_scales(detector, profile)
        return cls(
            detector, graph, CostModel(graph, detector.model), profile, precision, architecture or platform.machine(),
            record if precision == "int8" else None,
        )  # fmt: skip

    def onnx(self, widths: Widths | None = None) -> onnx.ModelProto:
        """The graph that the runtime loads, at widths of the channel groups; whole without them."""
        model, record = self.detector.model, self.record
        if widths is not None:
            keeps = {g.name: tuple(range(int(w))) for g, w in zip(self.graph.groups, widths, strict=True)}
            plan = make_plan(self.graph, self.costs, keeps, importance="", scope="", channel_multiple=1, seed=0)
            model = apply(model, self.graph, plan, blocks.settle)
            record = record and fold.cut(record, plan.layers)
        size = self.profile.input_shape[2:]
        if record is not None:
            return form(quantized_graph(model, record, *size), lint_name(self.profile.runtime, self.architecture))
        made = float_graph(model, *size)
        return to_half(made) if own_file(self.profile.runtime, self.precision) else made


def _noise_scales(detector: Detector, profile: TargetProfile) -> Quantization:
    noise = np.random.default_rng(0).random((1, detector.channels, *profile.input_shape[2:]), np.float32)
    return calibrate(
        detector.model, [Image("noise", noise)], profile.quantization, blocks.float_layers(detector.model), "minmax",
        NOISE,
    )  # fmt: skip
