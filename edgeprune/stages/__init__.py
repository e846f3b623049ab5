"""The stages of a build: what makes a model (make.py), and what judges it (judge.py)."""

from edgeprune.stages.common import reach
from edgeprune.stages.judge import bench, bundle, report, verify
from edgeprune.stages.make import admit, calibrate, export, finetune, price, prune, swap

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
    "verify",
]
