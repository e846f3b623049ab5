"""The stages of a build.

make.py makes a model; latency.py and pace.py tell how long it may take; export.py makes files of it, and board.py has a
board build its engines; tune.py finds in which form and how these are run, verify.py whether they compute what they
should; judge.py judges them and page.py shows it.
"""

from edgeprune.stages.board import build_on_device
from edgeprune.stages.common import reach
from edgeprune.stages.export import export
from edgeprune.stages.judge import bench, bundle, offer, report
from edgeprune.stages.make import admit, calibrate, finetune, price, prune, swap
from edgeprune.stages.pace import pace
from edgeprune.stages.page import page
from edgeprune.stages.tune import tune
from edgeprune.stages.verify import verify

__all__ = [
    "admit", "bench", "build_on_device", "bundle", "calibrate", "export", "finetune", "offer", "pace", "page", "price",
    "prune", "reach", "report", "swap", "tune", "verify",
]  # fmt: skip
