"""Does a quantized graph suit the runtime that will load it? Every rule names the node that breaks it.

Rules:
- A finding is an *error* where the runtime refuses the graph or computes other numbers; *slow* where it builds and
  silently runs in float, or slower; *coarse* where it runs and detections suffer.
- What a rule is about is in rules.py. Here: for which runtime, and for which of its versions.
- Lint reads the graph only. That an operator really became an integer kernel is what gate.py looks at, by building.

ONNX Runtime chooses kernels by processor, so it is two runtimes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx

from edgeprune.errors import ExportError
from edgeprune.export import rules
from edgeprune.export.view import View, label

Severity = Literal["error", "slow", "coarse"]
Version = tuple[int, ...]

TENSORRT, X86, ARM, OPENVINO = "tensorrt", "onnxruntime-x86-64", "onnxruntime-aarch64", "openvino"
RUNTIMES = (TENSORRT, X86, ARM, OPENVINO)
#: JetPack 5's; nothing older was looked at.
OLDEST_TENSORRT = (8, 5)

_ALWAYS: tuple[Version, Version] = ((0,), (1000,))
_EVERYWHERE = dict.fromkeys(RUNTIMES, _ALWAYS)
_TENSORRT = {TENSORRT: _ALWAYS}


@dataclass(frozen=True)
class Finding:
    """One node that breaks one rule.

    Attributes:
        rule: Name in `RULES`.
        severity: error, slow or coarse.
        node: The node's name, or the graph input's.
        sentence: What was expected and what is there.
    """

    rule: str
    severity: Severity
    node: str
    sentence: str


@dataclass(frozen=True)
class Rule:
    """A check, how bad it is, and whom it concerns: runtime -> (from this version, up to but without that)."""

    check: rules.Check
    severity: Severity
    runtimes: Mapping[str, tuple[Version, Version]]


RULES: dict[str, Rule] = {
    "scale": Rule(rules.scale, "error", _EVERYWHERE),
    "signed-concat": Rule(rules.signed_concat, "error", {OPENVINO: _ALWAYS}),
    "zero-point": Rule(rules.zero_point, "error", _TENSORRT),
    "zero-point-shape": Rule(rules.zero_point_shape, "error", _TENSORRT),
    "zero-point-input": Rule(rules.zero_point_input, "error", {TENSORRT: ((8, 5), (8, 6))}),
    "unsigned-activation": Rule(rules.unsigned_activation, "error", _TENSORRT),
    "integer-type": Rule(rules.integer_type, "error", _TENSORRT),
    "int32-bias": Rule(rules.int32_bias, "error", _TENSORRT),
    "integer-operator": Rule(rules.integer_operator, "error", _TENSORRT),
    "dynamic-shape": Rule(rules.dynamic_shape, "error", _TENSORRT),
    "mod": Rule(rules.modulo, "error", {TENSORRT: ((8, 5), (8, 6))}),
    "topk-k": Rule(rules.topk_k, "error", {TENSORRT: ((8, 5), (8, 6))}),
    "opset": Rule(rules.new_operator, "error", {TENSORRT: ((8, 5), (10,))}),
    "stored-int8-weights": Rule(rules.stored_int8_weights, "error", {TENSORRT: ((8, 5), (10,))}),
    "float16-scale": Rule(rules.float16_scale, "error", {TENSORRT: ((8, 5), (10,))}),
    "quantized-decode": Rule(rules.quantized_decode, "error", _EVERYWHERE),
    "quantized-last-convolution": Rule(rules.quantized_last_convolution, "coarse", _EVERYWHERE),
    "activation-per-channel": Rule(rules.activation_per_channel, "slow", {TENSORRT: _ALWAYS, OPENVINO: _ALWAYS}),
    "scale-as-vector": Rule(rules.scale_as_vector, "slow", _TENSORRT),
    "weight-axis": Rule(rules.weight_axis, "slow", {TENSORRT: _ALWAYS, OPENVINO: _ALWAYS}),
    "half-quantized": Rule(rules.half_quantized, "slow", _EVERYWHERE),
    "split-activation": Rule(rules.split_activation, "slow", _TENSORRT),
    "residual": Rule(rules.residual, "slow", _TENSORRT),
    "shared-scale": Rule(rules.shared_scale, "slow", _TENSORRT),
    "strongly-typed": Rule(rules.strongly_typed, "slow", {TENSORRT: ((11,), (1000,))}),
    "signed-activation": Rule(rules.signed_activation, "slow", {X86: _ALWAYS}),
    "unsigned-activation-on-arm": Rule(rules.unsigned_activation_on_arm, "slow", {ARM: _ALWAYS}),
    "float-result": Rule(rules.float_result, "slow", {X86: _ALWAYS, ARM: _ALWAYS}),
}


def lint(model: onnx.ModelProto, runtime: str, version: str = "") -> tuple[Finding, ...]:
    """Check a graph.

    Args:
        model: The graph as the runtime would load it.
        runtime: One of `RUNTIMES`.
        version: Of the runtime, as '10.3'. TensorRT's is required, its rules differ.

    Returns:
        The findings, errors first, otherwise in the order of `RULES` and of execution.

    Raises:
        ExportError: An unknown runtime or version.
    """
    number = number_of(runtime, version)
    view = View(model)
    found = [
        Finding(rule=name, severity=rule.severity, node=node if isinstance(node, str) else label(node), sentence=text)
        for name, rule in RULES.items()
        if runtime in rule.runtimes and rule.runtimes[runtime][0] <= number < rule.runtimes[runtime][1]
        for node, text in rule.check(view)
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def lint_name(runtime: str, machine: str) -> str:
    """One of `RUNTIMES` for a runtime on an architecture, as `platform.machine()` says it."""
    if runtime != "onnxruntime":
        return runtime
    return X86 if machine in {"x86_64", "AMD64"} else ARM


def errors(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Those that the runtime refuses or misreads."""
    return tuple(finding for finding in findings if finding.severity == "error")


def number_of(runtime: str, version: str) -> Version:
    """A version as numbers, once runtime and version are known to be some.

    Raises:
        ExportError: They aren't.
    """
    if runtime not in RUNTIMES:
        raise ExportError("Unknown runtime.", where="--runtime", expected=", ".join(RUNTIMES), got=runtime)
    if not version and runtime != TENSORRT:
        return (0,)
    try:
        number = tuple(int(part) for part in version.split("."))
    except ValueError as error:
        raise ExportError(
            "TensorRT's rules differ by version." if not version else "That is no version.",
            where="--version",
            expected="numbers with dots, as 10.3",
            got=repr(version) if version else "none",
        ) from error
    if runtime == TENSORRT and number < OLDEST_TENSORRT:
        raise ExportError("TensorRT is too old.", where="--version", expected="8.5 or later", got=version)
    return number
