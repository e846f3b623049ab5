"""Frames from a camera, as pixels.

Rules:
- A number is /dev/videoN; a path is a device of video4linux; 'lavfi:GRAPH' is libavdevice's virtual input, with which
  the same code is tried where there is no camera.
- Size, rate and pixel format are the camera's own defaults; the run's record says which.
- `frame()` waits for the next frame, decodes it and turns it into RGB: what a capture costs an application.
- A camera that isn't there, is in use, may not be opened, or stops, is an error in words.

Sources: PyAV documentation (av.open, VideoFrame.to_ndarray); FFmpeg devices documentation, 'video4linux2' and 'lavfi'.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.errors import DeviceError, missing_package
from edgeprune.records.benchmark import CameraMode
from edgeprune.runtime.preprocess import Pixels

VIRTUAL = "lavfi:"


class Camera:
    """An open camera.

    Attributes:
        mode: What it delivers.
    """

    def __init__(self, container: Any, source: str) -> None:
        stream = container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        self.mode = CameraMode(
            source=source, width=stream.width, height=stream.height, format=stream.codec_context.name,
            frames_per_s=float(rate) if rate else None,
        )  # fmt: skip
        self._frames = container.decode(stream)

    def frame(self) -> Pixels:
        """The next frame, RGB, shape (height, width, 3).

        Raises:
            DeviceError: The camera stopped.
        """
        try:
            return np.ascontiguousarray(next(self._frames).to_ndarray(format="rgb24"))
        except StopIteration:
            raise DeviceError("The camera gives no more frames.", where=self.mode.source) from None
        except (OSError, ValueError) as error:  # FFmpeg's errors are either, and this library's with them
            raise DeviceError("The camera stopped.", where=self.mode.source, got=str(error)) from error


@contextmanager
def open_camera(source: str) -> Iterator[Camera]:
    """Open a camera; it is let go of at the end.

    Args:
        source: '0' for /dev/video0, a device's path, or 'lavfi:GRAPH'.

    Raises:
        DeviceError: PyAV isn't installed, or the camera can't be opened.
    """
    try:
        import av
    except ImportError as error:
        raise missing_package("av", "camera") from error
    virtual = source.startswith(VIRTUAL)
    file = source.removeprefix(VIRTUAL) if virtual else device_of(source)
    try:
        container = av.open(file, format="lavfi" if virtual else "v4l2")
    except (OSError, ValueError) as error:
        raise refusal(error, file) from error
    with container:
        yield Camera(container, source)


def device_of(source: str) -> str:
    """The device file of a camera's number; a path stays one."""
    return f"/dev/video{int(source)}" if source.isdecimal() else source


def refusal(error: OSError | ValueError, file: str) -> DeviceError:
    """Why a camera can't be opened, and what to do."""
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        return DeviceError(
            "There is no such camera.", where=file, expected=" or ".join(there) or "a camera: this machine has none",
            next_step="ls -l /dev/v4l/by-id names them; a camera on a ribbon cable needs its driver's overlay",
        )  # fmt: skip
    if number in (errno.EACCES, errno.EPERM):
        return DeviceError(
            "This user may not open the camera.", where=file, got=str(error),
            next_step="sudo usermod -aG video $USER, then log in again",
        )  # fmt: skip
    if number == errno.EBUSY:
        return DeviceError("The camera is in use.", where=file, next_step=f"fuser -v {file} shows by whom; end that")
    return DeviceError(
        "This is no camera that can be opened.", where=file, expected="a video4linux capture device", got=str(error),
        next_step=f"v4l2-ctl --device {file} --all says what it is",
    )  # fmt: skip
