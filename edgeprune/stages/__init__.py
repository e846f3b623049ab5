"""The stages of a build: what makes a model (make.py) and how long it may take (latency.py, pace.py), what makes files of
it (export.py), what has a board build its engines (board.py), in which form and how these are run (tune.py), what judges
them (judge.py) and shows it (page.py)."""

from edgeprune.stages.board import build_on_device
from edgeprune.stages.common import reach
from edgeprune.stages.export import export
from edgeprune.stages.judge import bench, bundle, offer, report, verify
from edgeprune.stages.make import admit, calibrate, finetune, price, prune, swap
from edgeprune.stages.pace import pace
from edgeprune.stages.page import page
from edgeprune.stages.tune import tune

__all__ = [
    "admit", "bench", "build_on_device", "bundle", "calibrate", "export", "finetune", "offer", "pace", "page", "price",
    "prune", "reach", "report", "swap", "tune", "verify",
]  # fmt: skip
