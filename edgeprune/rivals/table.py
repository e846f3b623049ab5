"""What a race says of a build and everybody else. Pure.

Rules:
- Every figure against ours is of paired blocks of the one race (bench/measure.py), with its interval.
- The rival that counts is the fastest of those whose mAP holds by the measure that the build is held to; the fastest of
  all is named as well where that is another one.
"""

from __future__ import annotations

from edgeprune.records.rivals import Compared, ComparedRow


def sentences(found: Compared) -> tuple[str, ...]:
    """What came out, the important first."""
    build = found.row(found.build)
    said = []
    if not found.accepted:
        said.append(f"{build.name} was rejected by its own gate: it is the best of the build, and doesn't count")
    lost = found.reference - build.map50_95
    said.append(f"{build.name} (mAP50-95 {build.map50_95:.4f}, {lost:+.4f} lost) takes {build.latency_ms.p50:.2f} ms")
    rivals = sorted(found.rivals, key=lambda row: row.latency_ms.p50)
    if not rivals:
        return (*said, "nobody else's export could be raced")
    holding = [row for row in rivals if found.holds(row)]
    if holding:
        said.append(f"the fastest export of others whose mAP holds is {against(holding[0])}")
    else:
        said.append(f"no export of others loses {found.max_map_drop:g} or less")
    if not holding or rivals[0] is not holding[0]:
        said.append(f"the fastest of all, at mAP50-95 {rivals[0].map50_95:.4f}, is {against(rivals[0])}")
    return tuple(said)


def against(row: ComparedRow) -> str:
    """A row with how many times its speed ours has."""
    if row.against is None:
        return row.name
    interval = f"{row.against.confidence:.0%} interval {1 / row.against.high:.2f} to {1 / row.against.low:.2f}"
    return f"{row.name}, {row.latency_ms.p50:.2f} ms: ours has {1 / row.against.ratio:.2f} times its speed ({interval})"


def listed(found: Compared) -> tuple[ComparedRow, ...]:
    """Rows as tables show them: ours, the parent's, the others', each the fastest first."""
    sides = {"build": 0, "parent": 1, "rival": 2}
    return tuple(sorted(found.rows, key=lambda row: (sides[row.side], row.latency_ms.p50)))
