"""The forms that a graph allows: where an engine begins and ends (records/form.py).

Rule: the stock form is always there, and first.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune.errors import ExportError
from edgeprune.export.onnx import tensor_specs
from edgeprune.records import Form, TensorSpec


def forms_of(onnx_file: Path, runtime: str) -> tuple[Form, ...]:
    """The forms that a detector can have on a runtime, the stock one first."""
    return (Form(),)


def tensor_specs_of(onnx_file: Path, form: Form) -> tuple[TensorSpec, tuple[TensorSpec, ...]]:
    """The input and the outputs of an engine of that form, for a bundle.

    Raises:
        ExportError: The model can't have the form.
    """
    if not form.stock:
        raise ExportError("The graph has no such form.", where=onnx_file, got=form.words())
    return tensor_specs(onnx_file)
