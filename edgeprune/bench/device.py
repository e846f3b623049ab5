"""The device half: one engine, alone in a fresh process, under one load, with its accuracy. No torch.

Rules:
- Images are real and lie decoded in memory before the clock starts; what is timed begins at pixels, as a camera gives
  them, and ends at boxes in the image's pixels. Pre-processing, inference and post-processing are timed apart.
- With a camera each frame is new; its capture is timed too and is part of the query's latency. Nothing is scored, since
  frames have no boxes, and no run is quicker than the camera.
- Post-processing keeps what the validator keeps (score over 0.001): the detections that are timed are those that are
  scored. An image's first answer of the timed run counts; images that it didn't draw are answered after it.
- Cold start is the first thing that happens; then warm-up, which isn't recorded; then the timed run; then the rest of
  the images; then, on their own, the pass that shows whether answers are remembered (caching.py) and the one that power
  is read in.
- Sensors are read before, after, and once a second between queries.
- Peak memory is the kernel's high-water mark of this process (VmHWM). getrusage's ru_maxrss is not: it is handed down
  from the process that started this one.

Sources: proc(5) (VmHWM; /proc/stat in USER_HZ); Linux fs/exec.c `exec_mmap`, which keeps the old memory's high-water
mark for getrusage.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from edgeprune.bench import caching, energy, scenarios, sensors, validity
from edgeprune.bench.camera import Camera, open_camera
from edgeprune.bench.measure import MIN_INFERENCES, WARM_UP_SECONDS, cold_start_ms
from edgeprune.bench.pace import pinned, pinned_in_words
from edgeprune.errors import DeviceError
from edgeprune.machine import emulated, environment, text
from edgeprune.records.benchmark import (
    BenchRequest,
    CpuUse,
    DeviceAnswer,
    DeviceRun,
    Energy,
    Prediction,
    ScenarioResult,
)
from edgeprune.records.files import sha256_file
from edgeprune.records.request import Engine
from edgeprune.runtime.decode import Detections
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.pinning import pin
from edgeprune.runtime.predict import coco_results
from edgeprune.runtime.preprocess import Floats, Pixels, given, read_image, resizer
from edgeprune.runtime.session import available, open_session

#: Decoded images that the timed run draws from take no more memory than this; a Raspberry Pi may have 1 GB in all.
HELD_BYTES = 256 << 20
#: Seconds between readings of the sensors.
READ_EVERY_S = 1.0
#: Share of a camera's rate from which on its frames don't pile up.
KEEPS_UP = 0.95

#: Told what is done: what, and how much of how much.
Progress = Callable[[str, float, float], None]


def bench(request: BenchRequest, folder: Path, on_progress: Progress = lambda what, done, total: None) -> DeviceAnswer:
    """Do what a request asks for, in this process.

    Args:
        request: The engine, the images, the load.
        folder: What the request's paths are relative to.

    Raises:
        DeviceError: The runtime isn't here, hasn't the precision, or can't load the engine.
        DataError: An image that can't be read.
    """
    engine, settings = folder / request.engine, request.settings
    pin(settings.cores)  # before the runtime comes with threads of its own
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    why = available(request.runtime, request.precision, settings.plugin)  # imports it, which cold start leaves out
    if why:
        raise DeviceError("The precision can't be had.", where=engine, expected=request.precision, got=why)
    with ExitStack() as stack:
        camera = None if request.camera is None else stack.enter_context(open_camera(request.camera))
        return _bench(request, folder, camera, cpus, on_progress)


def _bench(
    request: BenchRequest, folder: Path, camera: Camera | None, cpus: set[int], on_progress: Progress
) -> DeviceAnswer:
    load, root, engine = request.load, Path(request.sensors_root), folder / request.engine
    settings = request.settings
    paths = [folder / image for image in request.images]
    image = camera.frame() if camera else read_image(paths[0])
    first, _ = given(image, *request.input_shape[2:], request.form.input)
    begin = time.perf_counter()
    session = open_session(request.runtime, engine, request.precision, settings, form=request.form)
    session.run(first)
    started_ms = (time.perf_counter() - begin) * 1e3

    detector = _Loaded(Detector(session, *request.input_shape[2:]), hold(paths), camera)
    warm_up_s = _warm_up(detector)
    detector.found.clear()
    readings = [sensors.read(root, 0.0, ask=True)]

    def look(at_s: float) -> None:
        if at_s - readings[-1].at_s >= READ_EVERY_S:
            readings.append(sensors.read(root, at_s))
            on_progress(load.scenario, min(at_s, load.min_duration_s), load.min_duration_s)

    before = _processor_time(root, cpus)
    timed = scenarios.run(load, detector.sample, detector.images, between=look)
    cpu = _used(before, _processor_time(root, cpus), timed.duration / 1e9 * len(cpus))
    readings.append(sensors.read(root, timed.duration / 1e9, ask=True))
    peak = peak_rss_bytes()

    predictions: list[Prediction] = []
    for index, path in enumerate(paths):
        found = detector.found.get(index) or detector.answer(read_image(path))
        predictions += [Prediction.model_validate(result) for result in coco_results(index + 1, found)]
        on_progress("accuracy", index + 1, len(paths))
    remembered = None if camera else caching.check(detector.inference, detector.held, load.seed)
    spent, energy_note = _energy(request, detector, root, on_progress)
    uncached = _uncached(request, engine, first)
    result = scenarios.result(load, timed)
    void, notes = validity.judge(load, readings, cpu, result.query_ms, emulated(root))
    run = DeviceRun(
        runtime=session.runtime, engine_sha256=sha256_file(engine), threads=settings.threads or len(cpus),
        cold_start_ms=started_ms, cache=session.cache, uncached_start_ms=uncached, warm_up_s=warm_up_s,
        held_images=len(detector.held), camera=camera and camera.mode, result=result, peak_rss_bytes=peak,
        readings=tuple(readings), cpu=cpu, energy=spent, caching=remembered,
        void=(*void, *(caching.void(remembered) if remembered else ())),
        notes=(*notes, *energy_note, *_held_note(detector, paths), *_camera_note(camera, result)),
        environment=_environment(root),
    )  # fmt: skip
    return DeviceAnswer(run=run, predictions=tuple(predictions))


def hold(paths: Sequence[Path], most_bytes: int = HELD_BYTES) -> list[Pixels]:
    """Decode images in order, at least one, as many as fit."""
    held: list[Pixels] = []
    room = most_bytes
    for path in paths:
        pixels = read_image(path)
        room -= pixels.nbytes
        if held and room < 0:
            break
        held.append(pixels)
    return held


def peak_rss_bytes() -> int | None:
    """The most memory that this process has had."""
    for line in (text(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def processor_time(stat: str, cpus: set[int]) -> float | None:
    """Seconds that some cores were busy since the start, from the text of /proc/stat; None where they aren't in it.

    Busy is all but idle and iowait; guest time is within user's already.
    """
    ticks, seen = 0, 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _idle, _iowait, *rest = map(int, fields[:8])
            ticks, seen = ticks + user + nice + system + sum(rest), seen + 1
    return ticks / os.sysconf("SC_CLK_TCK") if seen and seen == len(cpus) else None


class _Loaded:
    """A detector with the images that it is to answer."""

    def __init__(self, detector: Detector, held: list[Pixels], camera: Camera | None) -> None:
        self.held, self.found = held, dict[int, Detections]()
        self.answer, self._camera = detector, camera

    @property
    def images(self) -> int:
        """How many there are to draw from; a camera's frames count as one."""
        return len(self.held) or 1

    def sample(self, index: int) -> tuple[int, ...]:
        """Answer a held image, or the camera's next frame; nanoseconds of each part, of the capture last."""
        asked = time.perf_counter_ns()
        image = self._camera.frame() if self._camera else self.held[index]
        captured = time.perf_counter_ns() - asked
        found, parts = self.answer.timed(image)
        if self._camera:
            return (*parts, captured)
        self.found.setdefault(index, found)
        return parts

    def inference(self, image: Pixels) -> int:
        """Nanoseconds of the inference of any image."""
        pixels, _ = self.answer.prepare(image)
        start = time.perf_counter_ns()
        self.answer.session.run(pixels)
        return time.perf_counter_ns() - start


def _warm_up(detector: _Loaded) -> float:
    begin, turn = time.perf_counter(), 0
    while turn < MIN_INFERENCES or time.perf_counter() - begin < WARM_UP_SECONDS:
        detector.sample(turn % detector.images)
        turn += 1
    return time.perf_counter() - begin


def _energy(
    request: BenchRequest, detector: _Loaded, root: Path, on_progress: Progress
) -> tuple[Energy | None, tuple[str, ...]]:
    """The pass that power is read in, where there is a sensor; else why not."""
    length = request.load.energy_s
    if not length:
        return None, ()
    sensor = energy.find_sensor(root)
    if isinstance(sensor, str):
        return None, (f"energy: {sensor}",)

    def work() -> int:
        begin, images = time.perf_counter(), 0
        while time.perf_counter() - begin < length:
            detector.sample(images % detector.images)
            images += 1
        return images

    on_progress("energy", 0, length)
    spent = energy.meter(sensor, work)
    return (None, (f"energy: {spent}",)) if isinstance(spent, str) else (spent, ())


def _uncached(request: BenchRequest, engine: Path, image: Floats | Pixels) -> float | None:
    """The cold start without the cache of compiled models, where there is one."""
    if not request.settings.cache:
        return None
    without = request.settings.model_copy(update={"cache": False})
    return cold_start_ms(
        Engine(
            name="again", runtime=request.runtime, precision=request.precision, file=str(engine), settings=without,
            form=request.form,
        ),
        image,
    )  # fmt: skip


def _processor_time(root: Path, cpus: set[int]) -> tuple[float, float] | None:
    """Own and everyone's seconds of processor time on the cores that this process may use."""
    busy = processor_time(text(root / "proc/stat") or "", cpus)
    return None if busy is None else (time.process_time(), busy)


def _used(before: tuple[float, float] | None, after: tuple[float, float] | None, available_s: float) -> CpuUse | None:
    if before is None or after is None:
        return None
    return CpuUse(own_s=after[0] - before[0], busy_s=after[1] - before[1], available_s=available_s)


def _held_note(detector: _Loaded, paths: Sequence[Path]) -> tuple[str, ...]:
    if len(detector.held) == len(paths):
        return ()
    return (f"the timed run drew from the first {len(detector.held)} of {len(paths)} images: what fits in memory",)


def _camera_note(camera: Camera | None, result: ScenarioResult) -> tuple[str, ...]:
    if camera is None:
        return ()
    mode, took = camera.mode, result.throughput_per_s
    scored = "accuracy: not scored, since a camera's frames have no boxes"
    if mode.frames_per_s is None:
        return (scored, "camera: it doesn't say how many frames a second it gives")
    if took < KEEPS_UP * mode.frames_per_s:
        return (
            scored,
            f"camera: it gives {mode.frames_per_s:.1f} frames/s and {took:.1f} were answered: frames wait in the "
            "driver's queue or are dropped there, and how old they get is in no latency here",
        )
    return (
        scored,
        f"camera: throughput is bounded by its {mode.frames_per_s:.1f} frames/s; capture is mostly waiting for them",
    )


def _environment(root: Path) -> dict[str, str]:
    power_mode = text(root / "var/lib/nvpmodel/status")
    return (
        environment()
        | ({"nvpmodel": power_mode} if power_mode else {})
        | {"clocks pinned": pinned_in_words(pinned(root)), "resize": resizer()}
    )
