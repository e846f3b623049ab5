"""Who is raced against: other people's exports of a trained detector, for a runtime. Pure.

Rules:
- A rival is what a user of that tool gets: its documented arguments, everything else at its default. The input is as
  large as the target's and static, which favours it.
- INT8 takes its ranges from the same images as ours, never from val (which Ultralytics' exporter takes by default: it
  would see the images that it is scored on).
- Quantization-aware training has as many epochs as the build had in all.
- Ultralytics writes the ONNX file of a quantization-aware trained model, but no OpenVINO model. OpenVINO reads that
  ONNX file, so it is raced there all the same.

Sources: ultralytics 8.4.190, `engine/exporter.py`, `utils/torch_utils.py: prepare_qat`; NNCF 3.4, `nncf.quantize`;
OpenVINO 2026.4, 'Quantizing Models Post-training' (the mixed preset is for activations that aren't symmetric).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from edgeprune.errors import RecipeError
from edgeprune.records.target import TargetProfile

Maker = Literal["ultralytics", "nncf"]
FilePrecision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Rival:
    """One export.

    Attributes:
        key: What `--without` calls it.
        name: In tables.
        maker: Package that makes it.
        precision: Of its file.
        how: What its user would write.
        preset: NNCF's.
        trained: Whether it is fine-tuned first.
    """

    key: str
    name: str
    maker: Maker
    precision: FilePrecision
    how: str
    preset: Literal["performance", "mixed"] = "performance"
    trained: bool = False

    @property
    def slug(self) -> str:
        """For files and stages."""
        return self.name.replace(" ", "-")

    @property
    def calibrated(self) -> bool:
        """Whether its ranges are taken from images."""
        return self.precision == "int8" and not self.trained


#: What `--without` takes.
KEYS = ("fp32", "fp16", "int8", "qat", "nncf", "nncf-mixed")
#: Packages that Ultralytics needs for training with quantize=8, as it asks pip for them (`MODELOPT_REQUIREMENTS`).
TRAINS_WITH = ("nvidia-modelopt>=0.44", "huggingface_hub")
#: Ultralytics' names of what we build for.
_FORMATS = {"onnxruntime": "onnx", "openvino": "openvino"}


def rivals(profile: TargetProfile, epochs: int) -> tuple[Rival, ...]:
    """Every rival that a target's runtime has.

    Args:
        profile: The target; not TensorRT.
        epochs: Of fine-tuning that the build had.
    """
    size, kind = profile.input_shape[2], _FORMATS[profile.runtime]
    export = f"yolo export model=parent.pt format={kind} imgsz={size}"
    train = f"yolo train model=parent.pt data=data.yaml imgsz={size} epochs={epochs} quantize=8"
    qat = f"{train}; yolo export model=best.pt format=onnx imgsz={size}"
    found = [
        Rival("fp32", "ultralytics fp32", "ultralytics", "fp32", export),
        Rival("fp16", "ultralytics fp16", "ultralytics", "fp16", f"{export} quantize=16"),
        Rival("int8", "ultralytics int8", "ultralytics", "int8", f"{export} quantize=8 data=calibration.yaml"),
        Rival("qat", "ultralytics qat int8", "ultralytics", "int8",
              qat + ("; read_model(best.onnx)" if kind == "openvino" else ""), trained=True),
    ]  # fmt: skip
    if profile.runtime == "openvino":
        quantize = "nncf.quantize(the parent in FP32, calibration images"
        found += [
            Rival("nncf", "nncf int8", "nncf", "int8", f"{quantize})"),
            Rival("nncf-mixed", "nncf mixed int8", "nncf", "int8", f"{quantize}, preset=MIXED)", preset="mixed"),
        ]
    return tuple(found)


def lacks(rival: Rival, installed: Mapping[str, str]) -> str | None:
    """What a rival's tool lacks here, and how one comes by it; None where nothing is known to be missing.

    Args:
        installed: Package -> version, of those of `TRAINS_WITH` that are here.
    """
    missing = [asked for asked in TRAINS_WITH if asked.split(">")[0] not in installed]
    if not rival.trained or not missing:
        return None
    return (
        f"Ultralytics trains with quantize=8 only with {' and '.join(TRAINS_WITH)}; "
        f"pip install {' '.join(repr(asked) for asked in missing)}"
    )


def require_known(without: Sequence[str]) -> None:
    """Raise RecipeError where a rival to leave out is none."""
    for key in without:
        if key not in KEYS:
            raise RecipeError("There is no such rival.", where="--without", expected=", ".join(KEYS), got=key)
