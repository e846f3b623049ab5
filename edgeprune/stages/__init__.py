"""The stages of a build: what makes a model (make.py), what has a board build its engines (board.py), in which form and
how these are run (tune.py), what judges them (judge.py) and shows it (page.py)."""

from edgeprune.stages.board import build_on_device
from edgeprune.stages.common import reach
from edgeprune.stages.judge import bench, bundle, offer, report, verify
from edgeprune.stages.make import admit, calibrate, export, finetune, price, prune, swap
from edgeprune.stages.page import page
from edgeprune.stages.tune import tune

__all__ = [
    "admit", "bench", "build_on_device", "bundle", "calibrate", "export", "finetune", "offer", "page", "price", "prune",
    "reach", "report", "swap", "tune", "verify",
]  # fmt: skip
