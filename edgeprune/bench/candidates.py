"""The settings to race for an engine. Pure: what a target asks for and a device has in, settings out.

Rules:
- Everything with everything: threads, cores, spinning, optimisation, arena, hint, streams. The first is the target's
  first of each.
- What a device can't have is left out with a sentence: more threads than cores, cores that it lacks, more streams than
  threads.
- What makes no difference isn't raced twice: a thread alone has nobody to wait for, so it neither spins nor doesn't.
- The order says which is preferred where two are alike: the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from edgeprune.records.settings import Settings
from edgeprune.records.target import RACED, TargetProfile


def asks_for_choice(profile: TargetProfile) -> bool:
    """Whether a target leaves any setting to be decided on the device."""
    return any(len(getattr(profile, key)) > 1 for key in RACED) or "pinned" in profile.affinity


def candidates(profile: TargetProfile, places: Sequence[int]) -> tuple[tuple[Settings, ...], tuple[str, ...]]:
    """What to race.

    Args:
        profile: The target.
        places: Cores of the device that an engine may be held to, best first.

    Returns:
        Settings without doubles, and sentences on what was left out.
    """
    found: dict[Settings, None] = {}
    left_out: dict[str, None] = {}
    for threads, affinity, spinning, optimization, arena, hint, streams in product(
        *(getattr(profile, key) for key in RACED)
    ):
        listed = places if isinstance(affinity, str) else affinity
        if threads > len(listed) and profile.plugin == "CPU":
            whose = "the device has" if isinstance(affinity, str) else f"{' '.join(map(str, listed))} are"
            left_out[f"{threads} threads: {whose} {len(listed)} core{'s' * (len(listed) != 1)} for them"] = None
            continue
        used = threads or len(listed)
        if streams > used and profile.plugin == "CPU":
            left_out[f"{streams} streams: {used} thread{'s' * (used != 1)} can't run so many side by side"] = None
            continue
        settings = Settings(
            threads=threads, cores=() if affinity == "free" else tuple(listed[:used]),
            spinning=spinning if used > 1 else profile.spinning[0], optimization=optimization, arena=arena,
            plugin=profile.plugin, hint=hint, streams=streams, cache=profile.cache, rest=profile.rest,
        )  # fmt: skip
        found[settings] = None
    return tuple(found), tuple(left_out)
