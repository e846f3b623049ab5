"""From a checkpoint to a plan and a smaller checkpoint: trace, score, choose, cut."""

from __future__ import annotations

import copy
import io
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from edgeprune.errors import PlanError, RecipeError
from edgeprune.graph.channels import ChannelGraph
from edgeprune.graph.cost import CostModel
from edgeprune.graph.trace import dry_run
from edgeprune.prune import sparse
from edgeprune.prune.apply import apply, compose, make_plan, original_sizes
from edgeprune.prune.granularity import Pruned
from edgeprune.prune.ladder import Limits
from edgeprune.prune.request import Request
from edgeprune.prune.task import task_of
from edgeprune.prune.traced import channel_graph, without
from edgeprune.quant import fold
from edgeprune.quant.fake import SCALES
from edgeprune.records import PrunePlan, Quantization, read_json, write_json
from edgeprune.records.files import write_bytes
from edgeprune.records.methods import METHODS
from edgeprune.records.model import ModelFiles
from edgeprune.yolo import blocks
from edgeprune.yolo.checkpoint import pack
from edgeprune.yolo.load import Detector, load


def prune_checkpoint(
    request: Request,
    *,
    files: ModelFiles,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    on_trial: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Detector, PrunePlan]:
    """Cut a checkpoint and write the plan (from the parent) and the smaller checkpoint.

    Args:
        files: What to write: checkpoint and plan; scales and moments where the request has them.
        on_batch, on_trial: Told how many batches are scored, and candidates looked at: (done, in all).

    Returns:
        The detector that was cut, as it came, and the plan.

    Raises:
        RecipeError, PlanError, CheckpointError, ModelError.
    """
    detector = load(request.model, request.seed)
    require_stride(detector, request.image_size)
    graph = channel_graph(detector.model, request.image_size, detector.channels)
    before = read_json(request.before, PrunePlan, PlanError) if request.before else None
    record = read_json(request.quantization, Quantization, PlanError) if request.quantization else None
    original: dict[str, int] = {}
    if before is not None:
        assert request.parent is not None
        parent = without(load(request.parent).model, before.blocks or (), request.image_size, detector.channels)
        parent_graph = channel_graph(parent, request.image_size, detector.channels)
        original = original_sizes(graph, before, parent_graph)
    limits = Limits(request.channel_multiple, request.min_width, request.max_group_ratio, original)
    task = task_of(request, detector, graph, record, limits, before, on_batch, on_trial)
    pruned: Pruned = METHODS["granularity"][request.granularity].function(task)
    left = pruned.left or task.whole
    whole = CostModel(graph, detector.model)
    plan = make_plan(
        left.graph, CostModel(left.graph, left.model), pruned.keeps, pruned.time, sparse.record(pruned.zeros),
        pruned.blocks, (whole.macs(whole.widths), round(whole.parameters(whole.widths))),
        importance=request.importance, allocation=request.allocation, channel_multiple=request.channel_multiple,
        seed=request.seed,
    )  # fmt: skip
    moments, cut_from, carried = request.moments, detector, left.model
    if request.carrier is not None and request.carrier.checkpoint != request.model:
        cut_from, moments = load(request.carrier.checkpoint), request.carrier.moments
        scales = request.carrier.quantization
        record = read_json(scales, Quantization, PlanError) if scales else None
        carried = without(cut_from.model, pruned.blocks, request.image_size, detector.channels)
    cut = apply(carried, left.graph, plan, blocks.settle)
    _require_running(cut, request.image_size, detector.channels)
    if record is not None:
        assert files.quantization is not None
        write_json(files.quantization, fold.cut(record, plan.layers))
    if moments is not None:
        assert files.moments is not None
        shorten = partial(without, names=pruned.blocks, image_size=request.image_size, channels=detector.channels)
        write_bytes(files.moments, cut_moments(moments, cut_from.model, left.graph, plan, record, shorten))
    if before is not None:
        plan = compose(before, plan, parent_graph, CostModel(parent_graph, parent))
    assert files.plan is not None
    write_json(files.plan, plan)
    write_bytes(files.checkpoint, pack(cut, detector.checkpoint, half=detector.half))
    return detector, plan


def replay(model: Path, plan_file: Path, checkpoint_file: Path, seed: int = 0) -> PrunePlan:
    """Carry a plan out on the model that it was made for, and write the smaller checkpoint.

    Raises:
        PlanError: The plan is malformed, or was made for another model. Nothing is written.
        CheckpointError, ModelError: As `prune_checkpoint`.
    """
    plan = read_json(plan_file, PrunePlan, PlanError)
    detector = load(model, seed)
    image_size = (2 * max(detector.stride, 32),) * 2  # the graph is the same at every size
    model = without(detector.model, plan.blocks or (), image_size, detector.channels)
    graph = channel_graph(model, image_size, detector.channels)
    cut = apply(model, graph, plan, blocks.settle)
    _require_running(cut, image_size, detector.channels)
    write_bytes(checkpoint_file, pack(cut, detector.checkpoint, half=detector.half))
    return plan


def cut_moments(
    moments: Path,
    model: nn.Module,
    graph: ChannelGraph,
    plan: PrunePlan,
    record: Quantization | None = None,
    shorten: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> bytes:
    """The optimizer's moments of the cut model: each is cut as the parameter is that it belongs to.

    Args:
        moments: Parameter name -> {'exp_avg', 'exp_avg_sq', 'step'}, as a stretch of training leaves them.
        model: What they belong to, whole.
        graph: Of what is left of it, which the plan was made for.
        record: Its scales, whose moments are cut too.
        shorten: Takes the plan's blocks out.
    """
    state = torch.load(moments, weights_only=True, map_location="cpu")
    carrier = copy.deepcopy(model)
    made = {name: dict(entry) for name, entry in state.items()} if not plan.blocks else {}
    for key in ("exp_avg", "exp_avg_sq"):
        with torch.no_grad():
            for name, parameter in carrier.named_parameters():
                parameter.copy_(state[name][key] if name in state else torch.zeros_like(parameter))
        for name, parameter in apply(shorten(carrier), graph, plan).named_parameters():
            old = plan.name_in_parent(name)
            if old in state:
                made.setdefault(name, dict(state[old]))[key] = parameter.detach().clone()
    scales = made.get(f"{SCALES}.weight")
    if record is not None and scales is not None:
        kept = torch.tensor(fold.kept_scales(record, plan.layers))
        scales |= {key: scales[key][kept] for key in ("exp_avg", "exp_avg_sq")}
    buffer = io.BytesIO()
    torch.save(made, buffer)
    return buffer.getvalue()


def _require_running(cut: nn.Module, image_size: tuple[int, int], channels: int) -> None:
    """A block of the user's own may have its width in an attribute, which no operator shows."""
    try:
        dry_run(cut, (1, channels, *image_size))
    except Exception as error:  # whatever a forward raises on shapes that it didn't expect
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not {"torch", "edgeprune"} & set(Path(f.filename).parts)] or frames
        raise PlanError(
            "The cut model doesn't run: a block computes with a width that it keeps for itself.",
            where=f"{own[-1].filename}:{own[-1].lineno}, in {own[-1].name}: {own[-1].line}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="let the block read the width from its input's shape",
        ) from error


def require_stride(detector: Detector, image_size: tuple[int, int]) -> None:
    if any(edge % detector.stride for edge in image_size):
        raise RecipeError(
            "The input's size doesn't divide by the detector's stride.",
            expected=f"multiples of {detector.stride}", got=f"{image_size[0]}x{image_size[1]}",
        )  # fmt: skip
