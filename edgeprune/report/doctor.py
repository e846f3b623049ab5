"""What this machine has, for `edgeprune doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import DeviceError
from edgeprune.job import list_targets
from edgeprune.machine import environment, installed
from edgeprune.records.target import PRECISIONS
from edgeprune.runtime.openvino import DRIVERS, lacks, missing_for
from edgeprune.runtime.session import available
from edgeprune.version import PYTHONS

#: Package -> the extra that brings it.
EXTRAS = {
    "torch": "build", "ultralytics": "build", "onnx": "build", "onnxslim": "build", "pycocotools": "build",
    "onnxruntime": "onnxruntime", "openvino": "openvino", "asyncssh": "ssh",
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    fine: bool
    what: str
    found: str
    to_do: str = ""


def examine() -> list[Check]:
    """Look at packages, runtimes, targets and space. Changes nothing."""
    machine = environment()
    checks = [
        Check(True, "machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"),
        Check(PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1], "Python", platform.python_version()),
    ]
    found = installed(*EXTRAS)
    for package, extra in EXTRAS.items():
        to_do = "" if package in found else f"pip install 'edgeprune[{extra}]'"
        checks.append(Check(package in found, package, found.get(package, "not installed"), to_do))
    for runtime, precisions in PRECISIONS.items():
        for precision in precisions:
            try:
                why = available(runtime, precision)
            except DeviceError:
                continue  # said above: not installed
            checks.append(Check(why is None, f"{runtime} {precision}", why or "available"))
    checks += _plugins()
    telemetry = os.environ.get("ORT_DISABLE_TELEMETRY")
    state = "off" if telemetry == "1" else f"ORT_DISABLE_TELEMETRY={telemetry}"
    checks.append(
        Check(
            telemetry == "1", "telemetry of ONNX Runtime", state,
            "" if telemetry == "1" else "unset ORT_DISABLE_TELEMETRY",
        )
    )  # fmt: skip
    free = shutil.disk_usage(Path.cwd()).free
    checks.append(Check(free > 1e9, "free space here", f"{free / 1e9:.1f} GB"))
    names = list_targets()
    checks.append(Check(bool(names), "targets", ", ".join(names) or "none", "" if names else "write targets/NAME.yaml"))
    return checks


def _plugins() -> list[Check]:
    """OpenVINO's GPU and NPU: what they can compute in, or what is missing of their driver."""
    checks = []
    for plugin in ("GPU", "NPU"):
        try:
            lacking = {precision: lacks(precision, plugin) for precision in PRECISIONS["openvino"]}
        except DeviceError:
            if "openvino" in installed("openvino"):
                missing = ", ".join(missing_for(plugin)) or "OpenVINO finds none"
                checks.append(Check(False, f"openvino {plugin}", f"missing: {missing}", DRIVERS[plugin]))
            continue
        had = [precision for precision, why in lacking.items() if why is None]
        checks.append(Check(True, f"openvino {plugin}", ", ".join(had)))
    return checks
