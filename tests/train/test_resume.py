"""An interrupted fine-tuning ends in the weights of an uninterrupted one, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from edgeprune.records.dataset import read_dataset
from edgeprune.records.model import ModelFiles
from edgeprune.yolo.data import make_view
from edgeprune.yolo.load import load

SCRIPT = """
import sys
from pathlib import Path
from edgeprune.records import Recipe
from edgeprune.records.model import ModelFiles
from edgeprune.train.finetune import finetune
from edgeprune.yolo.stretch import Stretch
model, view, work, out, distillation = sys.argv[1:]
finetune(ModelFiles(Path(model)), parent=Path(model), view=Path(view), stretch=Stretch(0, 4, 4), image_size=64,
    learning_rate=0.0014, follow=False, work=Path(work),
    recipe=Recipe(batch=8, distillation=distillation, torch_device='cpu'), destination=ModelFiles(Path(out)),
    log=Path(work + '.log'), on_epoch=lambda done, total, fitness: print(done, flush=True))
"""


@pytest.mark.parametrize("distillation", ["logits", "ultralytics"])
def test_killed_training_goes_on_to_the_same_weights(
    tmp_path: Path, tiny: Path, scenes: Path, distillation: str
) -> None:
    view = make_view(read_dataset(scenes), tmp_path / "view")

    def start(name: str) -> subprocess.Popen[str]:
        arguments = [str(tiny), str(view), str(tmp_path / name), str(tmp_path / f"{name}.pt"), distillation]
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    whole = start("whole")
    assert whole.communicate(timeout=300)[0].split() == ["1", "2", "3", "4"]
    stopped = start("stopped")
    assert stopped.stdout is not None
    while stopped.stdout.readline().strip() != "2":
        assert stopped.poll() is None
    time.sleep(0.3)  # somewhere in the third epoch
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.communicate()
    assert not (tmp_path / "stopped.pt").exists()
    resumed = start("stopped")
    out, error = resumed.communicate(timeout=300)
    assert out.split()[-1:] == ["4"], error[-2000:]
    assert out.split()[0] in {"3", "4"}  # not from the beginning
    a, b = (load(tmp_path / f"{name}.pt").model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_training_moves_the_pruned_module_itself(tmp_path: Path, tiny: Path, scenes: Path) -> None:
    from edgeprune.prune.make import prune_checkpoint
    from edgeprune.prune.request import Request
    from edgeprune.records import Recipe
    from edgeprune.train.finetune import finetune
    from edgeprune.yolo.stretch import Stretch

    request = Request(model=tiny, image_size=(64, 64), importance="l2", macs_ratio=0.4)
    prune_checkpoint(request, files=ModelFiles(tmp_path / "pruned.pt", tmp_path / "plan.json"))
    view = make_view(read_dataset(scenes), tmp_path / "view")
    finetune(
        ModelFiles(tmp_path / "pruned.pt"), parent=tiny, view=view, recipe=Recipe(batch=8, torch_device="cpu"),
        stretch=Stretch(0, 1, 1), learning_rate=0.0014, follow=False, image_size=64, work=tmp_path / "work",
        destination=ModelFiles(tmp_path / "tuned.pt"), log=tmp_path / "log",
    )  # fmt: skip
    before, after = load(tmp_path / "pruned.pt").model, load(tmp_path / "tuned.pt").model
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (before, after)]
    assert shapes[0] == shapes[1]
    assert not torch.equal(before.model[0].conv.weight, after.model[0].conv.weight)
    assert after.names == load(tiny).model.names
