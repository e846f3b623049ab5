"""From a data set to a calibration set: looks at the images, then lets `choose` choose.

Rules:
- Only train images are looked at, in an order drawn by the seed from their paths. What has the bytes of an
  evaluation image or of a train image met before is left out, and so is what can't be decoded; all are told.
- Every train image's labels are read. Of large splits a pool is decoded: images of every class up to twice its
  quota, then the next ones in order.
- Too few images left: refused. A set that is smaller than it says would be a quiet change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import yaml

from edgeprune.calibration.choose import choose, quota
from edgeprune.calibration.scenes import Scene, balanced, describe_file
from edgeprune.calibration.sets import SameBytes, relative
from edgeprune.errors import DataError
from edgeprune.records import files
from edgeprune.records.base import parse
from edgeprune.records.calibration import NAME_PATTERN, CalibrationSet
from edgeprune.records.dataset import DataSet, read_boxes

#: Images that are decoded at most, if the set is not large itself: about 10 s of 640 px JPEGs on one core.
POOL = 4096
#: Pool for each image of the set: scenes need something to choose from.
POOL_FACTOR = 8
#: The rule in the words that a set carries; with the pool filled in.
RULE = (
    "From the train split, without copies and without what is an evaluation image by its bytes; of large splits "
    "{pool} images drawn by the seed, rare classes first. Classes: until each has size / (2 x classes) images, at "
    "least 1, the image that shows most of what is lacking, a class weighing 1 / images that show it. Scenes: the "
    "rest drawn by the seed, with a chance in proportion to the squared distance of an image's colours, layout and "
    "edges from the nearest chosen image (k-means++)."
)
_LICENCE_STEMS = frozenset({"license", "licence", "copying"})

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass
class LeftOut:
    """Train images that were met and not considered, relative to the data set's folder.

    Attributes:
        copies: Image -> the train image met before that has its bytes.
        evaluation: Image -> the evaluation image that has its bytes.
        unreadable: Image -> why.
    """

    copies: dict[str, str] = field(default_factory=dict)
    evaluation: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.copies) + len(self.evaluation) + len(self.unreadable)

    def __str__(self) -> str:
        return (
            f"{len(self.copies)} copies, {len(self.evaluation)} evaluation images, "
            f"{len(self.unreadable)} that can't be read"
        )


@dataclass(frozen=True)
class Selection:
    """A set, and what it was chosen from.

    Attributes:
        calibration: The set.
        train: Images of the train split.
        pool: Of them, those that the choice was made from.
        occurs: Class name -> train images that show it; classes that don't occur are not in it.
        chosen: Class name -> images of the set that show it.
    """

    calibration: CalibrationSet
    train: int
    pool: int
    occurs: dict[str, int]
    chosen: dict[str, int]
    left_out: LeftOut


def select(
    data: DataSet,
    size: int,
    seed: int,
    *,
    name: str,
    licence: str,
    input_shape: tuple[int, int, int, int],
    pool_size: int = POOL,
    progress: Progress = lambda what, done, total: None,
) -> Selection:
    """Choose `size` train images that cover the classes and the scenes.

    Reads labels, hashes and thumbnails; writes nothing.

    Args:
        data: The data set.
        size: Images to choose, at least 1.
        seed: Of the choice; the same seed over the same files gives the same set.
        name: Of the set.
        licence: Terms of the images; `find_licence` reads the data set's own.
        input_shape: Batch, channels, height, width that the images will be letterboxed to.
        pool_size: Images to choose from at most, or `POOL_FACTOR` for each of the set if that is more.
        progress: Told how far it has come.

    Raises:
        DataError: Fewer images than `size` are left, a label is no box, or name, licence or shape make no record.
    """
    require_name(name)
    train = data.splits["train"]
    shows = np.zeros((len(train), len(data.names)), dtype=bool)
    for index, image in enumerate(train):
        shows[index, read_boxes(image, len(data.names))[:, 0].astype(np.intp)] = True
        progress("reading labels", index + 1, len(train))
    order = _order(data, seed)
    pool_size = max(pool_size, POOL_FACTOR * size)
    pool = _Pool(data, min(len(train), pool_size), progress)
    least = 2 * quota(size, int(shows.any(axis=0).sum()))
    has = np.zeros(len(data.names), dtype=np.intp)
    for index in order:
        if (shows[index] & (has < least)).any() and pool.take(index):
            has += shows[index]
    for index in order:
        if len(pool.scenes) >= pool.limit:
            break
        pool.take(index)
    if len(pool.scenes) < size:
        raise DataError(
            "The train split has too few images for a calibration set of this size.", where=data.file,
            expected=f"{size} images", got=f"{len(pool.scenes)} of {len(train)}; left out: {pool.left_out}",
            next_step=f"give --size {len(pool.scenes)} or less" if pool.scenes else
            "give a data set whose train images are not its evaluation images",
        )  # fmt: skip
    rows = list(pool.scenes)
    picks = choose(shows[rows], balanced(list(pool.scenes.values())), size, seed)
    indices = sorted((rows[pick] for pick in picks), key=lambda index: relative(train[index], data.root))
    content = {
        "name": name, "data": f"{data.file.resolve().parent.name}/{data.file.name}", "licence": licence,
        "rule": RULE.format(pool=pool_size), "seed": seed, "input_shape": input_shape,
        "images": [{"path": relative(train[i], data.root), "sha256": pool.sha256[i]} for i in indices],
    }  # fmt: skip
    calibration = parse(CalibrationSet, content, DataError, where=f"calibration set {name}")
    occurs = {n: int(shows[:, c].sum()) for c, n in data.names.items() if shows[:, c].any()}
    chosen = {n: int(shows[indices, c].sum()) for c, n in data.names.items() if shows[:, c].any()}
    return Selection(calibration, len(train), len(rows), occurs, chosen, pool.left_out)


class _Pool:
    """The images that the choice is made from, looked at one by one."""

    def __init__(self, data: DataSet, limit: int, progress: Progress) -> None:
        self.limit = limit
        self.scenes: dict[int, Scene] = {}
        self.sha256: dict[int, str] = {}
        self.left_out = LeftOut()
        self._data, self._progress = data, progress
        self._evaluation = SameBytes(data.evaluation)
        self._met: dict[str, str] = {}
        self._looked_at: set[int] = set()

    def take(self, index: int) -> bool:
        """Look at a train image; whether it came in now."""
        if index in self._looked_at:
            return False
        self._looked_at.add(index)
        image = self._data.splits["train"][index]
        path = relative(image, self._data.root)
        try:
            sha256 = files.sha256_file(image)
            if sha256 in self._met:
                self.left_out.copies[path] = self._met[sha256]
                return False
            self._met[sha256] = path
            if twin := self._evaluation.find(image.stat().st_size, sha256):
                self.left_out.evaluation[path] = relative(twin, self._data.root)
                return False
            self.scenes[index] = describe_file(image)
        except (DataError, OSError) as error:
            reason = error.details["got"] if isinstance(error, DataError) else error
            self.left_out.unreadable[path] = str(reason)
            return False
        self.sha256[index] = sha256
        self._progress("looking at images", len(self.scenes), self.limit)
        return True


def find_licence(data: DataSet) -> str | None:
    """The licence that comes with a data set: the key 'license' of its data.yaml, or its LICENSE file's first line."""
    content = yaml.safe_load(data.file.read_text(encoding="utf-8"))
    exported = content.get("roboflow")  # Roboflow's exports keep it there
    for keys in (content, exported if isinstance(exported, dict) else {}):
        for key in ("licence", "license"):
            if keys.get(key):
                return str(keys[key]).strip()
    for folder in dict.fromkeys((data.root, data.file.resolve().parent)):
        for file in sorted(folder.iterdir()):
            if file.stem.lower() in _LICENCE_STEMS and file.suffix.lower() in {"", ".txt", ".md"} and file.is_file():
                lines = (line.strip(" #\t") for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
                if first := next((line for line in lines if line), None):
                    return f"{first[:100]} ({file.name})"
    return None


def require_name(name: str) -> None:
    """Refuse a name that can't be a set's, before minutes of looking at images.

    Raises:
        DataError: It holds what a file name had better not.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise DataError(
            "A calibration set can't have this name.", where="--name",
            expected="a-z, 0-9, '-' and '_', beginning with a letter or a digit", got=repr(name),
        )  # fmt: skip


def suggest_name(data: DataSet, size: int) -> str:
    """A name for a set: the data set's folder and the number of images."""
    return f"{re.sub(r'[^a-z0-9_-]+', '-', data.root.name.lower()).strip('-_') or 'set'}-{size}"


def _order(data: DataSet, seed: int) -> list[int]:
    """Train images in an order drawn by the seed; from paths, so that it is the same wherever the data set lies."""
    train = data.splits["train"]
    keys = [hashlib.sha256(f"{seed}\n{relative(image, data.root)}".encode()).digest() for image in train]
    return sorted(range(len(train)), key=keys.__getitem__)
