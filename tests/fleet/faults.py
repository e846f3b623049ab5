"""Faults at the n-th change of the disk: a kill, or an error, in a forked copy of this process.

Changes are what Python's audit events name (files opened for writing, renames, removals, folders, modes) and fsync.
Each is met right before it happens, and the one after the last is met never: that ends the count.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from edgeprune.errors import EdgepruneError

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
#: Exit codes of the copy: it ended and met no fault, it said no in words, it broke with the error itself, it ended all
#: the same.
ENDED, REFUSED, BROKE, UNHEARD = 0, 3, 4, 5


def run(act: Callable[[], None], at: int, error: int | None = None) -> int:
    """Run something in a copy of this process, with a fault at its `at`-th change of the disk (from 1).

    Args:
        error: What the change meets instead; with ENOSPC, all after it that need space too. None: the copy is killed.

    Returns:
        Its exit code; -9 where it was killed.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            met = _arm(at, error)
            act()
            code = UNHEARD if met() else ENDED
        except EdgepruneError:
            code = REFUSED
        except OSError as problem:
            code = BROKE if problem.errno == error else 1
        finally:
            if code == 1:
                traceback.print_exc()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _arm(at: int, error: int | None) -> Callable[[], bool]:
    """Returns whether the fault was met."""
    met = 0
    fsync = os.fsync

    def change(needs_space: bool) -> None:
        nonlocal met
        if error == errno.ENOSPC and not needs_space:
            return
        met += 1
        if met == at and error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        if error is not None and (met == at or (met > at and error == errno.ENOSPC)):
            raise OSError(error, os.strerror(error))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and path != os.devnull:
                change(needs_space=True)
        elif event in _CHANGES:
            change(needs_space=event not in ("os.remove", "os.rmdir", "os.chmod"))

    def counted(handle: int) -> None:
        change(needs_space=True)
        fsync(handle)

    os.fsync = counted
    sys.addaudithook(hook)
    return lambda: met >= at
