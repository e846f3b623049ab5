"""One small int8 build and its kit, for all tests that look at one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.export.test_quantized import Built


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An untrained YOLOv8n at 64 px, calibrated, with symmetric activations."""
    return Built(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six images that aren't square."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(6):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="session")
def kit(small: Built, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's folder. Not to be changed: copy it."""
    from edgeprune.export.kit import write_kit

    folder = tmp_path_factory.mktemp("kit") / "kit"
    write_kit(small.file, small.float_file, images, folder)
    return folder
