"""How much a channel matters: one score per channel of every channel group, high = keep.

Rules:
- A channel's score gathers every weight position that it owns: the rows that make it, its BatchNorm
  parameters, and the columns that read it. (`gradient`, `snip` and `hessian` look at the rows alone, `fpgm` too.)
- Groups must compare. Magnitudes, BatchNorm scales and activations are divided by their group's mean, since layers
  differ in scale (DepGraph, section 3.3). Taylor scores are changes of one loss: they compare as they are,
  and are only divided by the mean over all channels; so do all that come from gradients. LAMP, APoZ and masks are
  shares, which compare as they are. (Measured on the blood-cell YOLOv8n at 60 % of the
  MACs, before any fine-tuning: mAP50-95 0.507 that way, 0.224 with a mean per group.)
- What leaves zeros instead of cutting scores single weights: `l1_each` beside `l1`. A weight's name there is its
  parameter's. Where a method has no such sense, it has no such function.
- Formula and source of each stand in its function's docstring; METHODS (records/methods.py) lists them.
"""

from edgeprune.prune.importance.activations import activation, apoz, watched
from edgeprune.prune.importance.evidence import CutLoss, Evidence, Loss, Measure, Scores, Tensors, no_images
from edgeprune.prune.importance.gradients import fisher, gradient, hessian, snip, taylor
from edgeprune.prune.importance.weights import bn, fpgm, l1, l2, lamp, magnitude, masks, random, synapses

__all__ = [
    "CutLoss", "Evidence", "Loss", "Measure", "Scores", "Tensors", "activation", "apoz", "bn", "fisher", "fpgm",
    "gradient", "hessian", "l1", "l2", "lamp", "magnitude", "masks", "no_images", "random", "snip", "synapses",
    "taylor", "watched",
]  # fmt: skip
