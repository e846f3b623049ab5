"""OpenVINO: its plugins (CPU, GPU, NPU), what they have, and engines on them.

Rules:
- A plugin does what it was asked or says why not: a missing one is refused with what is missing of its driver, and a
  precision that isn't among its OPTIMIZATION_CAPABILITIES is never replaced by another.
- Shapes are static, as the NPU needs them and the others like them.
- The cache of compiled models is the user's own folder and nothing of a build or a bundle. OpenVINO keys it by model,
  plugin, settings and version. The model is read first and then compiled: by path alone, a file that has changed
  could be taken for the old one.

Sources: OpenVINO 2026.4: 'Inference Devices', 'Model Caching Overview', 'Configurations for Intel Processor Graphics
(GPU)', 'NPU Device'; ov::hint, ov::device::capabilities; package names of linux-npu-driver.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import DeviceError, missing_package
from edgeprune.machine import cores
from edgeprune.records.form import Input
from edgeprune.records.head import KEY, read_head
from edgeprune.records.settings import Settings
from edgeprune.runtime.preprocess import Floats, Pixels
from edgeprune.runtime.rehearse import random_tensor

#: Precision -> what OpenVINO is told to compute in.
_PRECISIONS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
#: What is float in a quantized graph: GPU and NPU have been made for FP16, and the NPU has nothing else.
_FLOAT_OF_INT8 = {"CPU": "f32", "GPU": "f16", "NPU": "f16"}
#: Seconds that a compiled model is kept: it is a cache, and OpenVINO never empties it.
KEPT_S = 30 * 86_400.0
#: Plugin -> its driver's packages on Debian and Ubuntu, and how one comes by them.
DRIVERS = {
    "GPU": "install ocl-icd-libopencl1 and intel-opencl-icd, and put the user into the group render",
    "NPU": "install intel-fw-npu, intel-driver-compiler-npu and intel-level-zero-npu (linux-npu-driver) and libze1, on "
    "Linux 6.6 or later, and put the user into the group render",
}  # fmt: skip


def core() -> Any:
    """OpenVINO, loaded.

    Raises:
        DeviceError: It isn't installed.
    """
    return _import().Core()


def require_plugin(plugin: str, root: Path = Path("/")) -> None:
    """Raise DeviceError where a plugin can't compute here; says what is missing of its driver."""
    there = core().available_devices
    if any(name.split(".")[0] == plugin for name in there):
        return
    missing = ", ".join(missing_for(plugin, root)) or "nothing that can be seen from outside"
    raise DeviceError(
        f"OpenVINO finds no {plugin} on this machine.", expected=plugin,
        got=f"{', '.join(there)}; missing: {missing}",
        next_step=f"{DRIVERS.get(plugin, 'take another plugin')}; `edgeprune doctor` looks again",
    )  # fmt: skip


def missing_for(plugin: str, root: Path = Path("/")) -> list[str]:
    """What of a plugin's hardware and driver isn't there, as far as it can be seen from outside."""
    nodes, libraries = {
        "GPU": ("dev/dri/renderD*", ("OpenCL",)),
        "NPU": ("dev/accel/accel*", ("ze_loader", "ze_intel_npu")),
    }.get(plugin, ("", ()))
    missing = [f"lib{name}.so.1" for name in libraries if ctypes.util.find_library(name) is None]
    if nodes:
        found = sorted(root.glob(nodes))
        if not found:
            missing.append(f"/{nodes} (no such hardware, or no kernel driver)")
        elif not any(os.access(node, os.R_OK | os.W_OK) for node in found):
            missing.append(f"the right to use /{found[0].relative_to(root)}")
    return missing


def lacks(precision: str, plugin: str) -> str | None:
    """Why a plugin can't compute in a precision; None if it can.

    Raises:
        DeviceError: OpenVINO or the plugin isn't there.
    """
    require_plugin(plugin)
    capabilities = core().get_property(plugin, "OPTIMIZATION_CAPABILITIES")
    if precision.upper() in capabilities:
        return None
    return f"this {plugin} has no {precision.upper()} (OpenVINO reports {', '.join(capabilities)})"


def cache_folder() -> Path:
    """Where compiled models are kept: beside an installed device side, else in the user's cache."""
    side = next((p for p in Path(sys.prefix).parents if p.name == "edgeprune" and p.parent.name == "share"), None)
    if side is not None:
        return side / "cache" / "openvino"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune" / "openvino"


def properties(precision: str, settings: Settings) -> dict[str, Any]:
    """What OpenVINO is told."""
    hint = _PRECISIONS.get(precision) or _rest(settings)
    told: dict[str, Any] = {"PERFORMANCE_HINT": settings.hint.upper(), "INFERENCE_PRECISION_HINT": hint}
    if settings.streams:
        told["NUM_STREAMS"] = settings.streams
    if settings.plugin == "CPU":
        told["INFERENCE_NUM_THREADS"] = settings.threads or len(settings.cores) or cores()
        if settings.cores:
            told["ENABLE_CPU_PINNING"] = True  # its threads, one a core of the process's; the calling one only waits
    return told


def _rest(settings: Settings) -> str:
    """What OpenVINO is told to compute in where a quantized graph is float."""
    if settings.plugin == "CPU" and settings.rest == "bf16" and lacks("bf16", "CPU") is None:
        return "bf16"
    return _FLOAT_OF_INT8[settings.plugin]


class OpenVinoSession:
    """OpenVINO, one inference at a time."""

    def __init__(self, engine: Path, precision: str, settings: Settings) -> None:
        why = lacks(precision, settings.plugin)
        if why:
            raise DeviceError("The precision can't be had.", where=engine, expected=precision, got=why)
        ov, loaded = _import(), core()
        if settings.cache:
            loaded.set_property({"CACHE_DIR": str(_ready(cache_folder()))})
        model = loaded.read_model(str(engine))
        self._compiled = loaded.compile_model(model, settings.plugin, properties(precision, settings))
        self._request = self._compiled.create_infer_request()
        self.runtime = f"openvino {ov.__version__.split('-')[0]}"
        self.cache = "none"
        if settings.cache:
            self.cache = "warm" if self._compiled.get_property("LOADED_FROM_CACHE") else "empty"
        self.output_names = tuple(
            output.get_any_name() if output.get_names() else output.node.friendly_name
            for output in self._compiled.outputs
        )
        self.input: Input = "pixels" if model.inputs[0].get_element_type() == ov.Type.u8 else "floats"
        path = list(KEY)
        self.head = read_head(model.get_rt_info(path).value if model.has_rt_info(path) else None, engine)

    def property_of(self, name: str) -> Any:
        """What the compiled model says of itself: NUM_STREAMS, INFERENCE_NUM_THREADS …"""
        return self._compiled.get_property(name)

    def run(self, images: Floats | Pixels) -> list[Floats]:
        results = self._request.infer(images, share_inputs=True)
        return [np.array(results[i], dtype=np.float32) for i in range(len(self.output_names))]

    def rehearsal(self) -> Callable[[], object]:
        """See session.open_rehearsal."""
        given = [random_tensor(one.shape, one.element_type.to_dtype().name) for one in self._compiled.inputs]
        return lambda: self._request.infer(given, share_inputs=True)


def open_openvino_graph(
    engine: Path, precision: str, settings: Settings
) -> Callable[[dict[str, Floats]], dict[str, Floats]]:
    """A graph with any inputs and outputs: inputs by name -> outputs by name."""
    told = properties(precision, settings)
    compiled = core().compile_model(str(engine), settings.plugin, told)

    def run(given: dict[str, Floats]) -> dict[str, Floats]:
        found = compiled(given)
        return {name: found[port] for port in compiled.outputs for name in port.get_names()}

    return run


def _ready(folder: Path) -> Path:
    """The cache's folder, this user's alone, without what was compiled long ago."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for blob in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            if blob.stat().st_mtime < time.time() - KEPT_S:
                blob.unlink()
    return folder


def _import():  # type: ignore[no-untyped-def]
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", "openvino") from error
    return openvino
