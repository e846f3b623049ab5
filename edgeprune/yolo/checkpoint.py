"""Writing a checkpoint that a stock Ultralytics install opens.

Rules:
- Only stock classes go in: the module itself, plain dicts and tensors. What a class of ours would add
  travels beside the file, never inside.
- Class names, strides, task and training arguments are the parent's.
- No clock and no path of this machine beside the parent's own: the same model gives the same bytes.

Source: `strip_optimizer` and `load_checkpoint` in ultralytics 8.4.190.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from ultralytics import __version__ as ultralytics_version
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT, DEFAULT_CFG_KEYS

#: What Ultralytics' own `strip_optimizer` empties.
_EMPTY = ("best_fitness", "ema", "updates", "optimizer", "stopper", "scaler", "modelopt")


def pack(model: DetectionModel, parent: dict[str, Any], *, half: bool) -> bytes:
    """The bytes of a stock checkpoint that holds `model`.

    Args:
        model: The detector; it is copied, not changed.
        parent: The parent checkpoint's other entries, for its training arguments and lineage.
        half: Store FP16, as Ultralytics does. FP32 weights that were never FP16 lose digits by it.

    Returns:
        What `YOLO(path)` reads from a file.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    arguments = {**DEFAULT_CFG_DICT, **parent.get("train_args", {})}
    arguments = {k: v for k, v in arguments.items() if k in DEFAULT_CFG_KEYS}
    model.criterion = None
    model.args = dict(arguments)
    model.__dict__.pop("pt_path", None)  # the loader's note of where the file lay
    content = {
        **dict.fromkeys(_EMPTY),
        "epoch": -1,
        "model": model.half() if half else model.float(),
        "train_args": arguments,
        "train_metrics": None,
        "version": ultralytics_version,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
