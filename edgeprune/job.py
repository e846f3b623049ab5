"""What a build is asked to do, checked before anything heavy starts.

Rules: everything that a user can get wrong in files and names is found here, in a second or two and
without torch: the target, the recipe, the data set, the model file, the space on the disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.bench.ask import Bench
from edgeprune.calibration.sets import read_calibration
from edgeprune.errors import CheckpointError, DeviceError, ProfileError, RecipeError
from edgeprune.records import Recipe, TargetProfile, read_yaml
from edgeprune.records.base import to_json
from edgeprune.records.dataset import DataSet, fingerprint, read_dataset
from edgeprune.records.files import sha256_file, write_bytes
from edgeprune.records.named import find, listed
from edgeprune.remote.bench import bench_at
from edgeprune.workshop import Listener, Workshop

#: Free space that a build needs, in multiples of the model file: parent, rounds, training state, engines.
SPACE_FACTOR = 40
#: … and in bytes for everything that doesn't grow with the model.
SPACE_FLOOR = 200 * 1024 * 1024


@dataclass(frozen=True)
class Job:
    """One build.

    Attributes:
        target: Its name.
        model: The user's checkpoint.
        sha256: Content hashes of model, data, target and recipe.
        shop: The folder that it is built in.
        bench: Where its engines run.
        calibration: Images that INT8 takes its ranges from; none where the target has no int8.
        calibration_set: Name or YAML of that set, as it was given.
        own_shape: The target's own input: the parent's, whatever size the recipe asks the build to have.
    """

    target: str
    profile: TargetProfile
    recipe: Recipe
    model: Path
    data: DataSet
    sha256: dict[str, str]
    shop: Workshop
    bench: Bench
    own_shape: tuple[int, int, int, int]
    calibration: tuple[Path, ...] = ()
    calibration_set: str | None = None

    @property
    def int8(self) -> bool:
        """Whether a quantized build is raced."""
        return "int8" in self.profile.precisions

    @property
    def on_board(self) -> bool:
        """Whether its engines are tied to the machine, so that the device itself must build them."""
        return self.profile.runtime == "tensorrt"

    @property
    def architecture(self) -> str:
        """Of the device."""
        return self.bench.architecture

    @property
    def view(self) -> Path:
        """Where the data set's links go."""
        return self.shop.folder / ".stages" / "data"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the build's input in pixels."""
        return self.profile.input_shape[2], self.profile.input_shape[3]

    def shape_of(self, variant: str) -> tuple[int, int, int, int]:
        """Input of parent or build: the parent keeps the target's own."""
        return self.own_shape if variant == "parent" else self.profile.input_shape

    @property
    def own_profile(self) -> TargetProfile:
        """The target with its own input: what parent and rivals are exported for."""
        return self.profile.model_copy(update={"input_shape": self.own_shape})

    @property
    def resized(self) -> bool:
        """Whether the recipe gives the build another input than the target's own."""
        return self.profile.input_shape != self.own_shape


def plan_job(
    model: Path | str,
    data: Path | str,
    target: str | TargetProfile,
    recipe: Path | str | Recipe | None,
    out: Path | str,
    listener: Listener | None = None,
    calibration: str | None = None,
    device: str | None = None,
    folder: str | None = None,
) -> Job:
    """Check what the user gave.

    Args:
        folder: Name of the build's folder in `out`, instead of the target's.
        calibration: A calibration set's name or YAML, instead of the recipe's.
        device: An address, instead of the target's.

    Raises:
        ProfileError, RecipeError, DataError, CheckpointError, DeviceError: Something is missing or wrong.
    """
    name, profile = (target, find_target(target)) if isinstance(target, str) else ("custom", target)
    name = Path(name).stem
    bench = bench_at(device or profile.device)
    profile = profile.model_copy(update={"device": bench.address})
    chosen = read_recipe(recipe)
    model, place = Path(model), Path(out) / (folder or name)
    if not model.is_file():
        raise CheckpointError("The model file doesn't exist.", where=model, next_step="give MODEL=path/to/best.pt")
    if profile.input_shape[2] != profile.input_shape[3]:
        raise ProfileError("Only square inputs can be fine-tuned.", where=name, got=profile.input_shape)
    dataset = read_dataset(Path(data))
    _require_space(place, model)
    sha256 = {
        "model": sha256_file(model),
        "data": _data_sha256(dataset, place),
        "target": hashlib.sha256(to_json(profile)).hexdigest(),
        "recipe": hashlib.sha256(to_json(chosen)).hexdigest(),
    }
    own_shape, profile = profile.input_shape, _sized(profile, chosen)
    images: tuple[Path, ...] = ()
    calibration_set = (calibration or chosen.calibration) if "int8" in profile.precisions else None
    if "int8" in profile.precisions:
        images, sha256["calibration"] = _calibration(calibration_set, dataset, (own_shape, profile.input_shape), name)
    shop = Workshop(place, listener)
    return Job(name, profile, chosen, model, dataset, sha256, shop, bench, own_shape, images, calibration_set)


def read_recipe(recipe: Path | str | Recipe | None) -> Recipe:
    """A recipe as it was given: a YAML's path, the record, or nothing for the defaults.

    Raises:
        RecipeError: The file is missing or malformed.
    """
    if isinstance(recipe, Recipe):
        return recipe
    return read_yaml(Path(recipe), Recipe, RecipeError) if recipe else Recipe()


def list_targets() -> dict[str, Path]:
    """Target name -> its file."""
    return listed("targets")


def find_target(name: str) -> TargetProfile:
    """Read a target by name, or by the path of its YAML.

    Raises:
        ProfileError: No such target, or a malformed file.
    """
    advice = "write targets/NAME.yaml; the ones there are examples"
    return find("targets", "target", name, TargetProfile, ProfileError, advice)


def _sized(profile: TargetProfile, recipe: Recipe) -> TargetProfile:
    """The target with the input that the recipe asks for."""
    if len(recipe.imgsz) > 1:
        raise RecipeError(
            "One build has one input size.", where="imgsz", got=", ".join(map(str, recipe.imgsz)),
            next_step="edgeprune build races several; give one here",
        )  # fmt: skip
    edges = recipe.imgsz * 2 or profile.input_shape[2:]
    return profile.model_copy(update={"input_shape": (*profile.input_shape[:2], *edges)})


def _calibration(
    name: str | None, data: DataSet, shapes: tuple[tuple[int, int, int, int], ...], target: str
) -> tuple[tuple[Path, ...], str]:
    """Its images and its hash. `shapes`: inputs that it may have been chosen for, the target's own first."""
    if name is None:
        raise RecipeError(
            "INT8 needs a calibration set.",
            where=target,
            expected="images that activation ranges are taken from; never the evaluation images, never a default",
            next_step="edgeprune calibrate select --data data.yaml --size 128, then --calibration NAME "
            "(make: CALIBRATION=NAME; recipe: calibration: NAME)",
        )
    chosen, images = read_calibration(name, data)
    if chosen.input_shape not in shapes:
        raise RecipeError(
            "The calibration set was chosen for another input.", where=name,
            expected=shapes[0], got=chosen.input_shape,
            next_step=f"choose it anew with --input-size {shapes[0][2]}",
        )  # fmt: skip
    return tuple(images), hashlib.sha256(to_json(chosen)).hexdigest()


def _require_space(folder: Path, model: Path) -> None:
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free, needed = shutil.disk_usage(place).free, SPACE_FLOOR + SPACE_FACTOR * model.stat().st_size
    if free < needed:
        raise DeviceError(
            "There is not enough space for the build.", where=place, expected=f"{needed / 1e6:.0f} MB free",
            got=f"{free / 1e6:.0f} MB", next_step="free some space or give another folder with --out",
        )  # fmt: skip


def _data_sha256(data: DataSet, folder: Path) -> str:
    """The data set's hash; hashes of single files are remembered by path, size and time."""
    memory = folder.parent / ".hashes.json"
    cache: dict[str, Any] = {}
    try:
        cache = json.loads(memory.read_text())
    except (OSError, json.JSONDecodeError):
        cache = {}
    known = len(cache)
    result = fingerprint(data, cache)
    if len(cache) != known:
        write_bytes(memory, json.dumps(cache, sort_keys=True).encode())
    return result
