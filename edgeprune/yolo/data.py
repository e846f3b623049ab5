"""A data set as Ultralytics reads it, through a view that leaves the user's folders alone.

Ultralytics writes a label cache beside the labels. A view is a folder of links to the images and labels
that were hashed, so the cache goes into the build folder, data sets on read-only disks work, and training
sees exactly what the stage's key was made from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from ultralytics.cfg import get_cfg
from ultralytics.data import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset

from edgeprune.records.dataset import DataSet, label_file
from edgeprune.yolo.log import logged


def make_view(data: DataSet, folder: Path) -> Path:
    """Link the data set's images and labels under `folder`; returns the view's data.yaml.

    Making it again over an older or unfinished view is fine.
    """
    for split, images in data.splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            name = f"{index:07d}_{image.stem}"  # two folders may hold images of one name
            _link(image, folder / "images" / split / f"{name}{image.suffix}")
            if label_file(image).is_file():
                _link(label_file(image), folder / "labels" / split / f"{name}.txt")
    content = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val", "names": data.names}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=True, allow_unicode=True), encoding="utf-8")
    return file


def _link(source: Path, link: Path) -> None:
    if link.is_symlink() and link.readlink() == source.resolve():
        return
    link.unlink(missing_ok=True)
    os.symlink(source.resolve(), link)


def batches(
    view: Path, image_size: int, batch: int, count: int, seed: int, torch_device: torch.device
) -> Iterator[dict[str, Any]]:
    """Batches of the train split for the detection loss: letterboxed, not augmented, shuffled by seed.

    Args:
        view: A view's data.yaml.
        image_size: Edge of the square image in pixels.
        batch: Images a batch.
        count: Batches to draw; a small split is gone through again.

    Yields:
        Ultralytics' batch: 'img' float in 0..1 of shape (batch, 3, size, size), 'cls', 'bboxes', 'batch_idx'.
    """
    config = get_cfg(overrides={"imgsz": image_size, "task": "detect", "cache": False, "workers": 0})
    with logged(None):
        data = check_det_dataset(str(view), autodownload=False)
        dataset = build_yolo_dataset(config, data["train"], batch, data, mode="val", rect=False)
    order = torch.Generator().manual_seed(seed)
    drawn = 0
    while drawn < count:
        indices = torch.randperm(len(dataset), generator=order).tolist()
        subset = torch.utils.data.Subset(dataset, indices)
        for raw in torch.utils.data.DataLoader(subset, batch, collate_fn=dataset.collate_fn):
            yield {
                k: (v.float() / 255 if k == "img" else v).to(torch_device) if isinstance(v, torch.Tensor) else v
                for k, v in raw.items()
            }
            drawn += 1
            if drawn == count:
                return
