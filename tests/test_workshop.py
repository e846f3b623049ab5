"""Stages: done once, whole or not at all, wherever they are killed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeprune.errors import DeviceError
from edgeprune.records import files
from edgeprune.workshop import Workshop


def maker(log: list[str], text: str = "made") -> Callable[[Path], None]:
    def act(work: Path) -> None:
        log.append(text)
        (work / "out.txt").write_text(text)

    return act


def test_same_inputs_are_done_once(tmp_path: Path) -> None:
    log: list[str] = []
    shop = Workshop(tmp_path / "t")
    source = tmp_path / "in.txt"
    source.write_text("1")
    with shop.open():
        for _ in range(2):
            shop.stage("s", maker(log), reads={"file": source, "x": 1}, makes=("out.txt",))
        assert len(log) == 1
        source.write_text("2")
        shop.stage("s", maker(log), reads={"file": source, "x": 1}, makes=("out.txt",))
        shop.stage("s", maker(log), reads={"file": source, "x": 2}, makes=("out.txt",))
        assert len(log) == 3
        shop.stage("s", maker(log), reads={"file": source, "x": 2}, makes=("out.txt",), force=True)
        assert len(log) == 4


@pytest.mark.parametrize("harm", ["remove", "change"])
def test_output_that_was_tampered_with_is_made_again(tmp_path: Path, harm: str) -> None:
    log: list[str] = []
    shop = Workshop(tmp_path / "t")
    with shop.open():
        shop.stage("s", maker(log), reads={}, makes=("out.txt",))
        if harm == "remove":
            (shop / "out.txt").unlink()
        else:
            (shop / "out.txt").write_text("forged")
        shop.stage("s", maker(log), reads={}, makes=("out.txt",))
    assert len(log) == 2
    assert (shop / "out.txt").read_text() == "made"


def test_failed_stage_leaves_no_output_and_keeps_its_work(tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "t")

    def fail(work: Path) -> None:
        (work / "out.txt").write_text("half")
        (work / "epochs").write_text("3 of 5")
        raise KeyboardInterrupt

    with shop.open():
        with pytest.raises(KeyboardInterrupt):
            shop.stage("s", fail, reads={}, makes=("out.txt",))
        assert not (shop / "out.txt").exists()

        def go_on(work: Path) -> None:
            assert not (work / "out.txt").exists()
            assert (work / "epochs").read_text() == "3 of 5"
            (work / "out.txt").write_text("whole")

        shop.stage("s", go_on, reads={}, makes=("out.txt",))
        assert (shop / "out.txt").read_text() == "whole"


def test_work_of_other_inputs_is_not_gone_on_with(tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "t")

    def fail(work: Path) -> None:
        (work / "left").write_text("")
        raise KeyboardInterrupt

    with shop.open():
        with pytest.raises(KeyboardInterrupt):
            shop.stage("s", fail, reads={"x": 1}, makes=("out.txt",))

        def act(work: Path) -> None:
            assert not (work / "left").exists()
            (work / "out.txt").write_text("")

        shop.stage("s", act, reads={"x": 2}, makes=("out.txt",))


def test_another_target_lends_what_it_has_done(tmp_path: Path) -> None:
    log: list[str] = []
    for name in ("one", "two"):
        shop = Workshop(tmp_path / name)
        with shop.open():
            shop.stage("s", maker(log), reads={"x": 1}, makes=("out.txt",))
    assert len(log) == 1
    assert (tmp_path / "two" / "out.txt").read_text() == "made"


def test_second_build_in_a_folder_is_refused(tmp_path: Path) -> None:
    one, two = Workshop(tmp_path / "t"), Workshop(tmp_path / "t")
    with one.open(), pytest.raises(DeviceError, match="Another build is at work"), two.open():
        pass
    with two.open():
        pass


CHAIN = """
import os, sys
from pathlib import Path
from edgeprune.records import files
from edgeprune.workshop import Workshop

# every rename, flush and removal of the build is a place to die at
count, fatal = 0, int(sys.argv[2])
def mortal(call):
    def wrapped(*args, **kwargs):
        global count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), 9)
        return call(*args, **kwargs)
    return wrapped
os.replace, os.fsync, os.unlink = mortal(os.replace), mortal(os.fsync), mortal(os.unlink)

shop = Workshop(Path(sys.argv[1]) / "t")
def first(work):
    files.write_bytes(work / "a.txt", b"a" * 100_000)
def second(work):
    (work / "b").mkdir(exist_ok=True)
    files.write_bytes(work / "b" / "x.txt", (shop / "a.txt").read_bytes() + b"x")
    files.write_bytes(work / "b" / "y.txt", b"y")
with shop.open():
    shop.stage("first", first, reads={"x": 1}, makes=("a.txt",))
    shop.stage("second", second, reads={"a": shop / "a.txt"}, makes=("b",))
print("ended", count)
"""


def test_killed_anywhere_and_run_again_ends_in_the_same_files(tmp_path: Path) -> None:
    def run(folder: Path, fatal: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", CHAIN, str(folder), str(fatal)], capture_output=True, text=True)

    whole = run(tmp_path / "whole", 0)
    places = int(whole.stdout.split()[1])
    assert places >= 12
    expected = files.sha256_file(tmp_path / "whole" / "t" / "b")
    for fatal in range(1, places + 1):
        folder = tmp_path / str(fatal)
        assert run(folder, fatal).returncode == -9
        again = run(folder, 0)
        assert again.returncode == 0, again.stderr
        assert files.sha256_file(folder / "t" / "b") == expected
        assert files.sha256_file(folder / "t" / "a.txt") == files.sha256_file(tmp_path / "whole" / "t" / "a.txt")
        names = {p.name for p in (folder / "t").iterdir()}
        assert {"a.txt", "b"} <= names


def test_full_disk_is_an_error_in_words_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x"
    files.write_bytes(file, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeviceError, match="No space left"):
        files.write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
