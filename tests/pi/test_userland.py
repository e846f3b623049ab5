"""The emulation itself: nothing half-made is taken for a userland, and a board leaves nothing behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.pi.conftest import start
from tests.pi.userland import CannotBeMadeError, userland

pytestmark = pytest.mark.pi


def running(emulation: Path) -> list[str]:
    """Processes that this userland's qemu runs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "exe")) == emulation / "qemu-aarch64":
                found.append(process.name)
        except OSError:
            continue
    return found


def test_userland_that_breaks_off_leaves_nothing_half_made(
    emulation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "mmdebstrap"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nfor target; do :; done\nmkdir -p "$target/usr"\necho "E: no route" >&2\nexit 25\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    killed_before = tmp_path / "cache" / "bookworm-0.part"
    (killed_before / "root").mkdir(parents=True)
    with pytest.raises(CannotBeMadeError, match="E: no route"):
        userland(cache=tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_board_whose_plug_is_pulled_leaves_nothing_on_this_machine(emulation: Path, tmp_path: Path) -> None:
    def host() -> tuple[str, list[str]]:
        return Path("/proc/self/mountinfo").read_text(), os.listdir("/proc/sys/fs/binfmt_misc")

    before, others = host(), running(emulation)
    card = tmp_path / "card"
    card.mkdir()
    board = start("pi5", emulation, card, tmp_path)
    try:
        assert set(running(emulation)) > set(others)
        assert host() == before
    finally:
        board.stop()
    assert running(emulation) == others
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", board.port))
    assert list(tmp_path.glob("memory/*")) == []
