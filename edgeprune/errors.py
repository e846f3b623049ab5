"""Every way in which edgeprune says no.

Rules:
- An error says what is wrong, where (file and line, node, parameter), what was expected and what was
  found instead, and the next step. Fields that don't apply are left out.
- Everything here is the user's to mend, so the command line turns it into exit code 2 without a traceback
  (``--debug`` shows one); what is wrong with a device has a code of its own. `ValueError` and its kin are left for a
  programmer's mistake.
- A rejected build is no error: it is a verdict (`edgeprune.records.Verdict`), exit code 1.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the command line ends with, so that a script can tell a fleet's troubles apart."""

    DONE = 0
    REJECTED = 1
    """A build that doesn't count, a void benchmark, findings."""
    USER = 2
    """Something for the user to mend."""
    UNREACHABLE = 10
    """No answer, or nobody at home: off, no network, no sshd."""
    LOST = 11
    """The connection broke off and couldn't be opened again."""
    KEY_NOT_ACCEPTED = 12
    """The device doesn't accept our key."""
    HOST_KEY_UNKNOWN = 13
    HOST_KEY_CHANGED = 14
    NO_PYTHON = 15
    """None there, or none that will do."""
    DISK_FULL = 16
    """On the device."""
    CLOCK = 17
    """Years off."""
    NOT_SET_UP = 18
    """No device side there, or one of another version."""
    RUNTIME_VERSION = 19
    """Another version than a bundle was made for."""
    ARCHITECTURE = 20
    """A bundle that was made for another one."""
    INTERRUPTED = 130


class EdgepruneError(Exception):
    """Root of the family.

    Args:
        what: One sentence: what is wrong.
        where: File (and line), module path, node or parameter.
        expected: What would have been right.
        got: What was there.
        next_step: What to do now.
        code: What the command line ends with.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        got: object = None,
        next_step: str | None = None,
        code: ExitCode = ExitCode.USER,
    ) -> None:
        self.what = what
        self.code = code
        self.details = {"where": where, "expected": expected, "got": got, "next step": next_step}
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {label}: {value}" for label, value in self.details.items() if value is not None]
        return "\n".join(lines)


class ProfileError(EdgepruneError):
    """A target profile that is missing, unknown or malformed."""


class RecipeError(EdgepruneError):
    """A recipe that is malformed or asks for what can't be had."""


class DataError(EdgepruneError):
    """A data set that can't be read, has no labels, or doesn't fit the model."""


class CheckpointError(EdgepruneError):
    """A file that isn't a checkpoint that edgeprune can prune."""


class ModelError(EdgepruneError):
    """A model that can't be traced or cut: data-dependent control flow, parameters that layers share."""


class UnsupportedOpError(ModelError):
    """An operator of the traced program that has no rule for its channels."""


class PlanError(EdgepruneError):
    """A prune plan that can't be made, or doesn't belong to the model it is applied to."""


class ExportError(EdgepruneError):
    """A model that can't be turned into a runtime's file."""


class ParityError(EdgepruneError):
    """A runtime whose numbers are not those of the model that was exported."""


class BundleError(EdgepruneError):
    """A bundle that isn't whole, isn't the one that was measured, or isn't for this machine."""


class DeviceError(EdgepruneError):
    """A device, or a runtime on it, that can't do what was asked: not installed, no space, no answer."""


class BusyError(DeviceError):
    """A folder that another build is at work in."""


class UpdateError(EdgepruneError):
    """A fleet's repository, release, rollout or update that can't be: not signed, not newer, not known."""


class ConnectionLostError(DeviceError):
    """A connection to a device that broke off; the same call goes on from where it was."""


def missing_package(package: str, extra: str) -> DeviceError:
    """The error for an optional package that isn't installed, naming the extra that brings it."""
    return DeviceError(
        f"The package '{package}' is not installed.",
        expected=f"the extra '{extra}'",
        next_step=f"pip install 'edgeprune[{extra}]'",
    )
