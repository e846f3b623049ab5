"""One build in one process: `python -m edgeprune.export.gate_worker MODEL.onnx ANSWER.json`, run by gate.py.

The answer: {"builder", "parsed", "errors", "warnings", "layers": [{"name", "type", "nodes", "inputs", "constants"}]},
with the types of inputs and constants as TensorRT calls them (Int8, Half, Float). The layers come from the builder's
log: DETAILED profiling verbosity writes a line a layer, which names the ONNX nodes in it. The plan stays closed: its
licence forbids reading it, and it is neither saved nor run.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: (?P<rest>.*)$")
_TYPE = re.compile(r"Datatype: (\w+)")
#: Between the ONNX nodes of one layer.
_SEPARATOR = "\x1f"


def main(file: Path, answer: Path) -> None:
    import tensorrt_rtx_bindings as trt

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[Any, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.lines.append((severity, text))

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = bool(parser.parse(file.read_bytes()))
    errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
    if parsed:
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if builder.build_serialized_network(network, config) is None:
            errors += [text for severity, text in log.lines if severity == trt.ILogger.Severity.ERROR] or ["no engine"]
    content = {
        "builder": f"TensorRT-RTX {trt.__version__}",
        "parsed": parsed,
        "errors": errors,
        "warnings": [text for severity, text in log.lines if severity == trt.ILogger.Severity.WARNING],
        "layers": [layer for _, text in log.lines for line in text.splitlines() if (layer := _layer(line))],
    }
    answer.write_text(json.dumps(content), encoding="utf-8")


def _layer(line: str) -> dict[str, object] | None:
    found = _LINE.match(line)
    if found is None:
        return None
    rest, _, metadata = found["rest"].partition(", Metadata: ")
    inputs, _, rest = rest.partition(", Constants: ")
    constants, _, _ = rest.partition(", Outputs: ")
    return {
        "name": found["name"],
        "type": found["type"],
        "nodes": [n.removeprefix("[ONNX Layer: ").removesuffix("]") for n in metadata.split(_SEPARATOR) if n],
        "inputs": _TYPE.findall(inputs),
        "constants": _TYPE.findall(constants),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
