"""Which wheels a device can take."""

from __future__ import annotations

from edgeprune.remote.wheelhouse import tags


def test_every_tag_up_to_the_devices_c_library_is_given_newest_first() -> None:
    """Bookworm's glibc is 2.36; a wheel for 2.39 wouldn't start there."""
    found = tags("aarch64", (2, 36))
    assert found[0] == "manylinux_2_36_aarch64"
    assert "manylinux_2_17_aarch64" in found
    assert found[-1] == "manylinux2014_aarch64"
    assert len(found) == 21
