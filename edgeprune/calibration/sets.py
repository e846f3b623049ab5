"""Calibration sets as files: found by name, checked against the data set at hand, written once.

Rules:
- Every image must lie in the data set's folder with the bytes that the set was made from.
- An image with the bytes of an evaluation image (val, and test where there is one) is refused under whatever
  name it goes: ranges taken from evaluation images flatter the accuracy that is then told. Only the same bytes
  count as the same image; one that was resized or encoded again is not noticed.
- A set without images is refused; nothing stands in for it.
- A set that is there is not overwritten by another one unless that is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from edgeprune.errors import DataError
from edgeprune.records import files, named
from edgeprune.records.base import read_yaml
from edgeprune.records.calibration import CalibrationSet, to_yaml
from edgeprune.records.dataset import DataSet

#: Names of images that an error lists before it says '…'.
NAMED = 5
_CHOOSE = "choose one with: edgeprune calibrate select --data data.yaml --size 128"
_HEADING = (
    "Images that activation ranges are taken from; chosen by `edgeprune calibrate select`, which makes the same file",
    "from the same data set, size and seed. `edgeprune schema` has every key with its meaning.",
)


class SameBytes:
    """Finds the file among many that has the same bytes as another.

    Only files as long as the one that is asked for are read, each once: 128 images are held against thousands
    in the time it takes to ask for their sizes.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._by_size: dict[int, list[Path]] = {}
        for path in paths:
            if path.is_file():  # a list may name files that aren't here; they can't be anyone's copy
                self._by_size.setdefault(path.stat().st_size, []).append(path)
        self._sha256: dict[Path, str] = {}

    def find(self, size: int, sha256: str) -> Path | None:
        """The first file of `size` bytes with this hash."""
        for path in self._by_size.get(size, ()):
            if path not in self._sha256:
                self._sha256[path] = files.sha256_file(path)
            if self._sha256[path] == sha256:
                return path
        return None


def list_calibration_sets() -> dict[str, Path]:
    """Set name -> its file; looked for where targets are."""
    return named.listed("calibration")


def find_calibration(name: str) -> CalibrationSet:
    """Read a set by name, or by the path of its YAML, without looking at the images.

    Raises:
        DataError: No such set, a malformed file, or one that holds no images.
    """
    file = named.locate("calibration", "calibration set", name, DataError, _CHOOSE)
    try:
        return read_yaml(file, CalibrationSet, DataError)
    except DataError:
        if _holds_no_images(file):
            raise DataError(
                f"The calibration set '{file.stem}' is empty.", where=file,
                expected="one image at least under 'images'", got="none", next_step=_CHOOSE,
            ) from None  # fmt: skip
        raise


def resolve(calibration: CalibrationSet, data: DataSet) -> list[Path]:
    """The set's images on this machine, in the set's order.

    Reads every image of the set once (for its hash), and of the evaluation images those of the same size.

    Raises:
        DataError: An image is missing, has other bytes, or is an evaluation image; named.
    """
    paths = [data.root / image.path for image in calibration.images]
    missing = [image.path for image, path in zip(calibration.images, paths, strict=True) if not path.is_file()]
    if missing:
        raise DataError(
            f"Images of the calibration set '{calibration.name}' are missing.", where=data.root,
            expected=f"the data set that it was chosen from: {calibration.data}",
            got=f"{len(missing)} of {len(paths)} are not there: {_some(missing)}",
            next_step="give that data set, or choose the set anew: edgeprune calibrate select",
        )  # fmt: skip
    changed = [
        image.path
        for image, path in zip(calibration.images, paths, strict=True)
        if files.sha256_file(path) != image.sha256
    ]
    if changed:
        raise DataError(
            f"Images of the calibration set '{calibration.name}' are not those that were chosen.", where=data.root,
            expected="the bytes that the set's sha256 stand for",
            got=f"{len(changed)} of {len(paths)} have others: {_some(changed)}",
            next_step="bring the images back, or choose the set anew: edgeprune calibrate select",
        )  # fmt: skip
    evaluation = SameBytes(data.evaluation)
    twins = [
        f"{image.path} (is {relative(twin, data.root)})"
        for image, path in zip(calibration.images, paths, strict=True)
        if (twin := evaluation.find(path.stat().st_size, image.sha256))
    ]
    if twins:
        raise DataError(
            f"The calibration set '{calibration.name}' holds evaluation images.", where=data.file,
            expected="images that accuracy is not told on: none of val or test, by content",
            got=f"{len(twins)} of {len(paths)}: {_some(twins)}",
            next_step="take them out of the set, or choose it anew: edgeprune calibrate select leaves them out",
        )  # fmt: skip
    return paths


def read_calibration(name: str, data: DataSet) -> tuple[CalibrationSet, list[Path]]:
    """Read a set by name or path, and find its images in the data set.

    Raises:
        DataError: As `find_calibration` and `resolve`.
    """
    calibration = find_calibration(name)
    return calibration, resolve(calibration, data)


def write_calibration(calibration: CalibrationSet, folder: Path, *, force: bool = False) -> Path:
    """Write `folder`/NAME.yaml, whole or not at all; the same bytes again are fine.

    Args:
        calibration: The set.
        folder: Made if it isn't there.
        force: Overwrite another set of this name.

    Raises:
        DataError: Another set of this name is there.
        DeviceError: The folder can't be written.
    """
    file = folder / f"{calibration.name}.yaml"
    content = to_yaml(calibration, _HEADING)
    if file.exists() and not force and file.read_bytes() != content:
        raise DataError(
            f"There is another calibration set '{calibration.name}'.", where=file,
            expected="a name that is free", next_step="give another --name, or --force to overwrite it",
        )  # fmt: skip
    files.write_bytes(file, content)
    return file


def relative(path: Path, root: Path) -> str:
    """A path as a record has it: relative to the data set's folder, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")


def _holds_no_images(file: Path) -> bool:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return content is None or (isinstance(content, dict) and not content.get("images"))
