"""Installing the device side on a device, and asking a device what it is.

Rules:
- What can be known beforehand is refused before anything is copied: no python3, one that is too old or too new, a
  clock that is so wrong that no certificate holds, no space.
- The name of an installation holds the hash of wheel, versions and runtime: the same again has nothing to do.
- What happens on the device is install.py, which leaves nothing half-installed; a copy that broke off stays as .part
  and is gone on with.

Source: PEP 405 (venv), PEP 440/508 as pip reads them; the device's python3 is never touched.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edgeprune.errors import DeviceError, ExitCode
from edgeprune.machine import BOARDS_OWN
from edgeprune.records.base import parse
from edgeprune.records.device_info import DeviceInfo
from edgeprune.records.installation import Installation
from edgeprune.remote import install as installer
from edgeprune.remote.device import Device, Finished
from edgeprune.remote.wheel import find_constraints, find_wheel
from edgeprune.remote.wheelhouse import fetch, platform_of
from edgeprune.version import PYTHONS, __version__

#: Below the device's home.
ROOT = ".local/share/edgeprune"
#: What the install may take beside the runtime itself.
LIMIT_BYTES = 120_000_000
#: What importing the device rooms may take.
LIMIT_IMPORT_S = 0.5
#: Space for wheels on their way and the installation: ONNX Runtime needs 200 MB, OpenVINO 400.
SPACE_BYTES = 600_000_000
#: A clock that is further off makes a fresh certificate, of a day's age, count as not yet valid.
CLOCK_LIMIT_S = 86_400.0
#: Installing takes half a minute on a PC, minutes on a Pi with an SD card.
INSTALL_TIMEOUT_S = 1800.0
#: JetPack's TensorRT is for the system's Python; JetPack 5 has 3.8.
_BOARDS_PYTHON = (
    "flash JetPack 6 or later; on JetPack 5 build by hand: edgeprune export makes kits/pruned without a board, and its "
    "build_engine.py runs on Python 3.8. (A Python that has TensorRT too: --python python3.10)"
)
#: Everything that runs on a device.
ROOMS = (
    "edgeprune.errors", "edgeprune.records", "edgeprune.runtime.session", "edgeprune.runtime.predict",
    "edgeprune.runtime.tensorrt", "edgeprune.bench.build",
    "edgeprune.bench.measure", "edgeprune.bench.worker", "edgeprune.bench.board", "edgeprune.bench.device",
    "edgeprune.bench.__main__", "edgeprune.bench.store",
)  # fmt: skip

#: The package that an installation with an agent has.
AGENT = "tuf"

#: What a setup is doing, in words.
Told = Callable[[str], None]


async def set_up(
    device: Device,
    runtime: str,
    *,
    python: str = "python3",
    wheel: Path | None = None,
    offline: bool = False,
    agent: bool = False,
    tell: Told = lambda _: None,
) -> tuple[Installation, bool]:
    """Install the device side with one runtime.

    Args:
        runtime: onnxruntime, openvino, or tensorrt, which must be there already.
        python: The device's interpreter to build on.
        wheel: edgeprune's wheel; without one it is built from the source checkout.
        offline: Whether the device reaches no package index: its wheels are fetched here and copied.
        agent: Whether it gets what a fleet's agent needs; one that has it keeps it.
        tell: Told what is being done.

    Returns:
        The installation, and whether it had to be made.

    Raises:
        DeviceError: Something is missing there, or it can't be installed; the device is as before.
    """
    root = await root_of(device)
    await _require_python(device, python, runtime)
    if runtime in BOARDS_OWN:
        await _require_module(device, python, runtime)
    there = await _installed(device, root)
    agent = agent or (there is not None and AGENT in there.versions)
    extras = [*([] if runtime in BOARDS_OWN else [runtime]), *(["agent"] if agent else [])]
    with tempfile.TemporaryDirectory(prefix="edgeprune-setup-") as folder:
        tell("building the wheel" if wheel is None else f"checking {wheel}")
        files = [find_wheel(wheel, Path(folder)), find_constraints(), Path(installer.__file__)]
        digest = hashlib.sha256(",".join([runtime, *extras]).encode())
        for file in files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        name = f"venv-{__version__}-{runtime}-{digest.hexdigest()[:12]}"
        if there is not None and there.name == name:
            return there, False
        if not offline:
            await _require_clock(device)
        await _require_space(device, root)
        incoming = f"{root}/incoming-{name}"  # each its own: another setup may be reading from its
        wheels: list[Path] = []
        if offline:
            about = await platform_of(device, python)
            tell(f"fetching wheels for {about[0]}, Python {about[2][0]}.{about[2][1]}")
            (Path(folder) / "wheels").mkdir()
            wheels = fetch(files[0], extras, files[1], Path(folder) / "wheels", *about)
        for file in files:
            tell(f"copying {file.name}")
            await device.put(file, f"{incoming}/{file.name}")
        if offline:
            tell(f"copying {len(wheels)} wheels, {sum(w.stat().st_size for w in wheels) / 1e6:.0f} MB")
            await device.put(Path(folder) / "wheels", f"{incoming}/wheels")
        request = {
            "root": root, "name": name, "runtime": runtime, "rooms": ROOMS, "incoming": incoming,
            "wheel": f"{incoming}/{files[0].name}", "extras": extras, "constraints": f"{incoming}/{files[1].name}",
            "boards_own": runtime in BOARDS_OWN,
            "wheels": f"{incoming}/wheels" if offline else None,
        }  # fmt: skip
        tell(f"installing {runtime} and edgeprune {__version__} there")
        script = f"{incoming}/{files[2].name}"
        done = await device.run([python, "-I", script, json.dumps(request)], timeout_s=INSTALL_TIMEOUT_S)
    return parse(Installation, _answer(device, done), DeviceError, where=device.address), True


async def ask(device: Device) -> DeviceInfo:
    """What a device is and which state it is in.

    Raises:
        DeviceError: The device side isn't installed there, or is of another version.
    """
    root = await root_of(device)
    offset_s, uncertainty_s = await _clock(device)
    python = f"{root}/current/bin/python"
    again = f"edgeprune device setup {device.address}"
    if (await device.run(["test", "-x", python])).exit_code:
        raise DeviceError(
            "edgeprune's device side is not installed there.", where=device.address, next_step=again,
            code=ExitCode.NOT_SET_UP,
        )  # fmt: skip
    # isolated: a folder of the user's that is named like a package would be imported in its place
    done = await device.run([python, "-I", "-m", "edgeprune.bench.board"], timeout_s=60)
    try:
        content = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise DeviceError(
            "edgeprune's device side doesn't work there.", where=device.address, got=_last(done), next_step=again,
            code=ExitCode.NOT_SET_UP,
        ) from error  # fmt: skip
    if content.get("edgeprune") != __version__:
        raise DeviceError(
            "edgeprune's device side is of another version.", where=device.address, expected=__version__,
            got=content.get("edgeprune"), next_step=again, code=ExitCode.NOT_SET_UP,
        )  # fmt: skip
    info = parse(DeviceInfo, content, DeviceError, where=device.address)
    return info.model_copy(update={"clock_offset_s": offset_s, "clock_uncertainty_s": uncertainty_s})


async def root_of(device: Device) -> str:
    """Where everything of edgeprune's lies on a device.

    Raises:
        DeviceError: Its user has no home folder.
    """
    home = (await device.run(["sh", "-c", 'printf %s "$HOME"'])).stdout
    if not home.startswith("/"):
        raise DeviceError("The device's user has no home folder.", where=device.address, got=f"HOME={home}")
    return f"{home}/{ROOT}"


async def _require_module(device: Device, python: str, module: str) -> None:
    """What comes with JetPack, for the system's Python alone; pip has nothing for a Jetson."""
    done = await device.run([python, "-I", "-c", f"import {module}; print({module}.__version__)"])
    if done.exit_code:
        raise DeviceError(
            f"The device's {python} has no {module}.", where=device.address, expected="the board's own, of its JetPack",
            got=_last(done), next_step="sudo apt install python3-libnvinfer, there", code=ExitCode.NOT_SET_UP,
        )  # fmt: skip


async def _require_python(device: Device, python: str, runtime: str) -> None:
    done = await device.run([python, "-c", "import sys; print(*sys.version_info[:2])"])
    lowest, highest = (".".join(map(str, v)) for v in PYTHONS)
    advice = "sudo apt install python3 python3-venv"
    if done.exit_code:
        missing = done.exit_code == 127
        raise DeviceError(
            f"There is no {python} on the device." if missing else f"The device's {python} doesn't start.",
            where=device.address, expected=f"Python {lowest} to {highest} on its PATH",
            got=None if missing else _last(done), next_step=advice,
            code=ExitCode.NO_PYTHON,
        )  # fmt: skip
    major, minor = map(int, done.stdout.split())
    if not PYTHONS[0] <= (major, minor) <= PYTHONS[1]:
        raise DeviceError(
            f"The device's {python} can't run edgeprune.", where=device.address,
            expected=f"Python {lowest} to {highest}", got=f"{major}.{minor}",
            next_step=_BOARDS_PYTHON if runtime in BOARDS_OWN
            else "install another Python there and name it: --python python3.11", code=ExitCode.NO_PYTHON,
        )  # fmt: skip


async def _require_clock(device: Device) -> None:
    offset_s, _ = await _clock(device)
    if abs(offset_s) > CLOCK_LIMIT_S:
        raise DeviceError(
            "The device's clock is so far off that it can't check certificates, so nothing can be installed.",
            where=device.address, expected="at most a day beside this machine's", got=duration(offset_s),
            next_step="set it: sudo timedatectl set-ntp true, or sudo date -s '…'", code=ExitCode.CLOCK,
        )  # fmt: skip


async def _require_space(device: Device, root: str) -> None:
    done = await device.run(["sh", "-c", 'mkdir -p "$1" && df -Pk "$1" | tail -n 1', "sh", root])
    fields = done.stdout.split()
    if done.exit_code or len(fields) < 4 or not fields[3].isdigit():
        raise DeviceError("The device can't be written to.", where=f"{device.address}: {root}", got=_last(done))
    if int(fields[3]) * 1024 < SPACE_BYTES:
        raise DeviceError(
            "There is not enough space on the device.", where=f"{device.address}: {root}",
            expected=f"{SPACE_BYTES / 1e6:.0f} MB free", got=f"{int(fields[3]) * 1024 / 1e6:.0f} MB",
            next_step="free some space there", code=ExitCode.DISK_FULL,
        )  # fmt: skip


async def _clock(device: Device) -> tuple[float, float]:
    """The device's clock against ours, and half the round trip, in seconds."""
    before = time.time()
    text = (await device.run(["date", "+%s.%N"])).stdout.strip().removesuffix(".%N").removesuffix(".N")
    after = time.time()
    try:
        return float(text) - (before + after) / 2, (after - before) / 2
    except ValueError:
        raise DeviceError("The device doesn't tell the time.", where=device.address, got=text) from None


async def _installed(device: Device, root: str) -> Installation | None:
    done = await device.run(["cat", f"{root}/current/{installer.RECORD}"])
    try:
        return Installation.model_validate_json(done.stdout)
    except ValueError:
        return None  # nothing there, or an older edgeprune's record: installed anew


def _answer(device: Device, done: Finished) -> object:
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, json.JSONDecodeError):
        raise DeviceError(
            "The installation ended without an answer; nothing was left behind.", where=device.address, got=_last(done)
        ) from None
    if "error" not in answer:
        return answer
    what, next_step = {
        "busy": ("Another setup is running on the device.", "wait for its end"),
        "no-venv": ("The device's Python can't make a virtual environment.", "sudo apt install python3-venv"),
        "pip": ("pip can't install on the device; nothing was left behind.", "does it reach the package index?"),
        "check": ("What was installed doesn't work there, so it was removed again.", None),
        "full": ("The device's disk became full while installing; nothing was left behind.", "free some space there"),
    }[answer["error"]]
    code = ExitCode.DISK_FULL if answer["error"] == "full" else ExitCode.USER
    raise DeviceError(what, where=device.address, got=answer["detail"].strip(), next_step=next_step, code=code)


def _last(done: Finished) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.exit_code}"


def duration(seconds: float) -> str:
    """A clock's offset in words: '3.2 years behind'."""
    size, way = abs(seconds), "ahead" if seconds > 0 else "behind"
    for unit, length in (("years", 31_557_600.0), ("days", 86_400.0), ("hours", 3600.0)):
        if size >= 2 * length:
            return f"{size / length:.1f} {unit} {way}"
    return f"{size:.3f} s {way}"
