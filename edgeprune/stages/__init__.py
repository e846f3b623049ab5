"""The stages of a build: what makes a model (make.py), how it is run (tune.py), and what judges it (judge.py)."""

from edgeprune.stages.common import reach
from edgeprune.stages.judge import bench, bundle, report, verify
from edgeprune.stages.make import admit, calibrate, export, finetune, price, prune, swap
from edgeprune.stages.tune import tune

__all__ = [
    "admit",
    "bench",
    "bundle",
    "calibrate",
    "export",
    "finetune",
    "price",
    "prune",
    "reach",
    "report",
    "swap",
    "tune",
    "verify",
]
