"""The settings to race for an engine. Pure: what a target asks for and a device has in, settings out.

Rules:
- Everything with everything: threads, cores, spinning, hint. The first is the target's first of each.
- What a device can't have is left out with a sentence: more threads than cores, cores that it lacks.
- The order says which is preferred where two are alike: the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from edgeprune.records.settings import Settings
from edgeprune.records.target import TargetProfile


def asks_for_choice(profile: TargetProfile) -> bool:
    """Whether a target leaves anything to be decided on the device."""
    return len(profile.threads) * len(profile.affinity) * len(profile.spinning) * len(profile.hints) > 1 or (
        "pinned" in profile.affinity
    )


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
    for threads, affinity, spinning, hint in product(
        profile.threads, profile.affinity, profile.spinning, profile.hints
    ):
        listed = places if isinstance(affinity, str) else affinity
        if threads > len(listed) and profile.plugin == "CPU":
            whose = "the device has" if isinstance(affinity, str) else f"{' '.join(map(str, listed))} are"
            left_out[f"{threads} threads: {whose} {len(listed)} core{'s' * (len(listed) != 1)} for them"] = None
            continue
        cores = () if affinity == "free" else tuple(listed[: threads or len(listed)])
        settings = Settings(
            threads=threads, cores=cores, spinning=spinning, plugin=profile.plugin, hint=hint, cache=profile.cache
        )
        found[settings] = None
    return tuple(found), tuple(left_out)
