"""The current model of an agent, for an application: loaded, followed over updates without a restart, and its health
told to the agent.

    model = CurrentModel(Path("/var/lib/edgeprune"))
    for image in camera:
        found = model(image)          # follows, detects, counts, writes the heartbeat

Rules:
- One look at the link an image (a system call); where it is another link, the model behind it is checked file by file
  and loaded, and the old one goes on until the new one has taken over.
- A model that can't be loaded doesn't end the application: it goes on with the old one, says so in `trouble`, and
  tries again when the link changes. The agent hears no heartbeat of the new release, and takes it back.
- heartbeat.json (records Heartbeat) is written over by a rename at least every `heartbeat_every_s` while images come.
  An application that has none for longer calls `beat()`.
- An image that fails is counted as an error and raised: it is the application's to go on.

Source: readlink(2), rename(2); facts on fleets.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from edgeprune.errors import DeviceError, EdgepruneError
from edgeprune.machine import boot
from edgeprune.records import Bundle, Heartbeat, Release, read_json
from edgeprune.records.agent import CURRENT, HEARTBEAT, RELEASE
from edgeprune.records.base import to_json
from edgeprune.runtime.bundle import open_slot
from edgeprune.runtime.decode import Detections, Thresholds
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.preprocess import Pixels
from edgeprune.runtime.session import available, open_session

#: An application's threshold, the default of Ultralytics' predict.
SCORE = 0.25


def load(
    slot: Path,
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    before: Callable[[Bundle], None] = lambda bundle: None,
) -> tuple[Bundle, Detector]:
    """Check a slot's model and load it.

    Args:
        slot: An agent's slot, or what its link leads to.
        before: Told of the bundle before anything of it runs.

    Raises:
        BundleError: It isn't whole.
        DeviceError: The runtime isn't here, hasn't the precision, or can't load it.
    """
    bundle, engine = open_slot(slot)
    before(bundle)
    profile, settings = bundle.profile, bundle.settings or bundle.profile.settings
    why = available(profile.runtime, bundle.precision, settings.plugin)
    if why:
        raise DeviceError("The precision can't be had.", where=engine, expected=bundle.precision, got=why)
    session = open_session(profile.runtime, engine, bundle.precision, settings, form=bundle.form)
    height, width = profile.input_shape[2:]
    return bundle, Detector(session, height, width, thresholds)


class CurrentModel:
    """The model that is current, whichever it is.

    Attributes:
        bundle: Of the model that is loaded.
        counter: Its release; 0: the factory model.
        trouble: Why the model behind the link isn't loaded; None where it is.
    """

    bundle: Bundle
    counter: int

    def __init__(self, folder: Path, *, score: float = SCORE, iou: float = 0.7, heartbeat_every_s: float = 5.0) -> None:
        """
        Args:
            folder: The agent's.
            score: Detections at or under it are dropped.
            iou: Overlap over which the weaker box of a class is dropped.

        Raises:
            BundleError: There is no model yet, or it isn't whole.
            DeviceError: It can't be loaded here.
        """
        self._folder, self._every = folder, heartbeat_every_s
        self._thresholds = Thresholds(score=score, iou=iou)
        self._link: tuple[int, int] | None = None
        self._told = -heartbeat_every_s
        self.trouble: str | None = None
        self._take(self._look())
        self.beat()

    def detector(self) -> Detector:
        """The detector of the model that is current now."""
        self.follow()
        return self._detector

    def follow(self) -> bool:
        """Take the model that is current, where it is another; returns whether it was taken."""
        link = self._look()
        if link == self._link:
            return False
        try:
            self._take(link)
        except (EdgepruneError, OSError) as error:
            self._link, self.trouble = link, str(error)
            return False
        self.trouble = None
        self.beat()
        return True

    def __call__(self, image: Pixels) -> Detections:
        """What is on an image: RGB, shape (h, w, 3)."""
        detector = self.detector()
        try:
            found = detector(image)
        except Exception:
            self.count(failed=True)
            raise
        self.count()
        return found

    def count(self, *, failed: bool = False) -> None:
        """Count an image, for who runs the detector himself."""
        self._images += 1
        self._errors += failed
        if time.monotonic() - self._told >= self._every:
            self.beat()

    def beat(self) -> None:
        """Write the heartbeat now. A folder that can't be written is no reason for an application to end."""
        self._told = time.monotonic()
        beat = Heartbeat(
            counter=self.counter, pid=os.getpid(), images=self._images, errors=self._errors, at_monotonic_s=boot()[1]
        )  # fmt: skip
        part = self._folder / f".{HEARTBEAT}.{os.getpid()}"
        with contextlib.suppress(OSError):
            part.write_bytes(to_json(beat))
            os.replace(part, self._folder / HEARTBEAT)

    def _look(self) -> tuple[int, int] | None:
        """What tells this link from every other one: it is made anew each time."""
        try:
            link = os.lstat(self._folder / CURRENT)
        except OSError:
            return None
        return link.st_ino, link.st_ctime_ns

    def _take(self, link: tuple[int, int] | None) -> None:
        slot = self._folder / os.readlink(self._folder / CURRENT) if link else self._folder / CURRENT
        bundle, detector = load(slot, self._thresholds)
        counter = 0
        if (slot / RELEASE).is_file():
            counter = read_json(slot / RELEASE, Release, DeviceError).counter
        self._link, self.bundle, self._detector, self.counter = link, bundle, detector, counter
        self._images = self._errors = 0
