"""`edgeprune form | lint | gate | kit`: the quantized graph for a runtime, by itself, on the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


def form(
    file: Annotated[Path, typer.Argument(help="quantized.onnx or mixed.onnx of an int8 build.")],
    runtime: Annotated[
        str, typer.Option("--runtime", help="tensorrt, onnxruntime-x86-64, onnxruntime-aarch64 or openvino.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The .onnx to write.")],
    version: Annotated[str, typer.Option("--version", help="TensorRT's, as 10.3.")] = "",
) -> None:
    """The one quantized graph as a runtime loads it: the same numbers, coded for its kernels."""
    from edgeprune.export.forms import form as form_of
    from edgeprune.export.view import read_model
    from edgeprune.records.files import write_bytes

    content = form_of(read_model(file), runtime, version).SerializeToString(deterministic=True)
    write_bytes(out, content)
    console.print(f"{out}: {len(content) / 1e6:.1f} MB for {runtime} {version}".rstrip())


def lint(
    file: Annotated[Path, typer.Argument(help="ONNX file, as the runtime would load it.")],
    runtime: Annotated[
        str, typer.Option("--runtime", help="tensorrt, onnxruntime-x86-64, onnxruntime-aarch64 or openvino.")
    ],
    version: Annotated[str, typer.Option("--version", help="The runtime's, as 10.3; TensorRT's is required.")] = "",
) -> None:
    """Check a quantized graph for a runtime: what it refuses, misreads, or runs in float. Exit code 1 on errors."""
    from edgeprune.export.lint import errors
    from edgeprune.export.lint import lint as findings_of
    from edgeprune.export.view import read_model
    from edgeprune.report.lint import findings_table

    findings = findings_of(read_model(file), runtime, version)
    if findings:
        console.print(findings_table(findings))
    wrong = len(errors(findings))
    judged = f"{runtime} {version}".rstrip()
    console.print(f"{file} for {judged}: {wrong} errors, {len(findings) - wrong} other findings")
    if wrong:
        raise typer.Exit(1)


def gate(
    file: Annotated[Path, typer.Argument(help="ONNX file in TensorRT's form.")],
) -> None:
    """Build a graph with TensorRT (no GPU needed): is every quantized convolution INT8? Keeps no engine."""
    from edgeprune.export.gate import gate as judge
    from edgeprune.export.view import read_model
    from edgeprune.report.lint import gate_table

    report = judge(read_model(file), str(file))
    console.print(gate_table(report))
    console.print(f"{file}: {report.int8} of {len(report.convolutions)} convolutions in INT8, all that should be")


def kit(
    quantized: Annotated[Path, typer.Argument(help="quantized.onnx or mixed.onnx of an int8 build, symmetric.")],
    float_file: Annotated[Path, typer.Option("--float", help="pruned.onnx of the same build: the FP16 candidate.")],
    images: Annotated[Path, typer.Option("--images", help="Folder of images, or a data.yaml, for golden outputs.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the kit.")],
    oldest: Annotated[str, typer.Option("--oldest", help="First TensorRT that the kit is for.")] = "8.5",
    count: Annotated[int, typer.Option("--golden", min=1, max=64, help="Golden images.")] = 4,
) -> None:
    """A build kit for Jetson boards: graphs, golden outputs, and build_engine.py, which builds on the board."""
    from edgeprune.export.kit import kit_sha256, write_kit
    from edgeprune.report.lint import kit_table

    made = write_kit(quantized, float_file, images, out, oldest=oldest, count=count)
    console.print(kit_table(made))
    size = sum(file.bytes for file in made.files)
    console.print(f"{out}: {size / 1e6:.1f} MB, sha256 {kit_sha256(out)}")
    console.print("  copy the folder to the board, then there: python3 build_engine.py")
