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

| name | score of a channel | source |
|---|---|---|
| random | uniform in 0..1 by seed | the control |
| l1, l2 | sum of absolute values; root of the sum of squares | Li et al. 2017, section 3.1 |
| bn | sum of absolute BatchNorm scales (l2 for groups without BatchNorm) | Liu et al. 2017 (network slimming) |
| fpgm | sum of its distances to the group's filters | He et al. 2019, section 3 (geometric median) |
| lamp | its square : that of all as large or larger | Lee et al. 2021, section 3 |
| synapses | sum over its kernels of BatchNorm scale x norm | Lin et al. 2018, section 3 |
| masks | share of its weights that torch.nn.utils.prune left | the user's own |
| apoz | share of values over 0 | Hu et al. 2016, section 3 |
| activation | mean absolute value | Molchanov et al. 2017, section 2.2 |
| gradient | mean absolute gradient | Evci et al. 2020 (RigL), section 3: what it regrows by |
| taylor | mean over batches of (sum of gradient x weight over its gates)^2 | Molchanov et al. 2019, eq. 8 and 10 |
| fisher | half the mean over images of the same | Theis et al. 2018, section 2; LeCun et al. 1990 (weights) |
| snip | sum over its weights of absolute gradient x weight | Lee et al. 2019, section 4 |
| sensitivity | the loss that cutting its group was measured to cost | Li et al. 2017, section 3.2 |
| hessian | trace of its block : (2 x weights) x square of its norm | Yu et al. 2022 (HAP), section 3 |
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
