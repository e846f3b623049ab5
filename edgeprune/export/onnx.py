"""The one ONNX file that every runtime starts from.

Rules: static shape, named tensors, class names in the metadata (as Ultralytics' readers expect them) and
the build's lineage under keys that begin with 'edgeprune.'. No clock, so that the same model gives the
same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgeprune.records import TensorSpec
from edgeprune.records.files import write_bytes
from edgeprune.yolo.export import to_onnx

#: Metadata that Ultralytics' exporter takes from the clock.
_CLOCK = frozenset({"date"})


def export_onnx(checkpoint: Path, destination: Path, height: int, width: int, lineage: Mapping[str, str]) -> None:
    """Write `destination` from a checkpoint.

    Args:
        checkpoint: A stock checkpoint.
        height, width: Of the static input in pixels.
        lineage: Hashes and versions to write into the metadata.

    Raises:
        ExportError: The model can't be exported.
        DeviceError: No space left.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = onnx.load(to_onnx(checkpoint, Path(folder), height, width))
    stock = {p.key: p.value for p in model.metadata_props if p.key not in _CLOCK}
    describe(model, stock, lineage)
    onnx.checker.check_model(model)
    write_bytes(destination, model.SerializeToString(deterministic=True))


def describe(model: onnx.ModelProto, stock: Mapping[str, str], lineage: Mapping[str, str]) -> None:
    """Write the metadata: what Ultralytics' readers expect, and the lineage under 'edgeprune.'. Mutates."""
    del model.metadata_props[:]
    stated = {**stock, **{f"edgeprune.{key}": value for key, value in lineage.items()}}
    onnx.helper.set_model_props(model, dict(sorted(stated.items())))


def metadata(file: Path) -> dict[str, str]:
    """The file's metadata."""
    return {p.key: p.value for p in onnx.load(file, load_external_data=False).metadata_props}


def tensor_specs(file: Path) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The input and the outputs of an exported file."""
    graph = onnx.load(file, load_external_data=False).graph

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        shape = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        return TensorSpec(name=value.name, shape=shape, dtype="float32")

    return spec(graph.input[0]), tuple(spec(o) for o in graph.output)
