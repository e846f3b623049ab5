"""Running commands on a device and copying, over a real sshd."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeprune.errors import ConnectionLostError, DeviceError
from edgeprune.remote import copy
from edgeprune.remote import device as remote
from edgeprune.remote.device import Device, connect
from tests.disk import small_disk
from tests.remote.conftest import Board


def on(board: Board, what: Callable[[Device], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with connect(board.address) as device:
            return await what(device)

    return asyncio.run(run())


def refused(board: Board, what: Callable[[Device], Awaitable[Any]]) -> str:
    with pytest.raises(DeviceError) as caught:
        on(board, what)
    return str(caught.value)


def written(board: Board) -> list[int]:
    """Bytes that sftp-server wrote into .part files, one number a file that was closed."""
    lines = [line for line in board.log("sftp").splitlines() if '.part" bytes read' in line]
    return [int(line.split("written ")[1].split()[0]) for line in lines]


def gone(pid: int) -> bool:
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_command_answers_with_output_errors_and_exit_code(board: Board) -> None:
    done = on(board, lambda d: d.run(["sh", "-c", 'echo "$1"; echo ü >&2; exit 7', "sh", "it's $HOME"]))
    assert (done.stdout, done.stderr, done.exit_code) == ("it's $HOME\n", "ü\n", 7)
    assert on(board, lambda d: d.run(["no-such-command"])).exit_code == 127
    assert on(board, lambda d: d.run(["env"], environment={"A": "1 2"})).stdout.count("\nA=1 2\n") == 1


def test_a_large_output_comes_whole(board: Board) -> None:
    done = on(board, lambda d: d.run(["head", "-c", "3000000", "/dev/zero"]))
    assert len(done.stdout) == 3_000_000


def test_two_commands_run_at_once(board: Board) -> None:
    async def both(device: Device) -> tuple[str, str]:
        waits = device.run(["sh", "-c", 'while [ ! -e "$HOME/go" ]; do sleep 0.05; done; echo first'])
        goes = device.run(["sh", "-c", 'touch "$HOME/go"; echo second'])
        first, second = await asyncio.wait_for(asyncio.gather(waits, goes), 30)
        return first.stdout, second.stdout

    assert on(board, both) == ("first\n", "second\n")


@pytest.mark.parametrize("ended_by", ["timeout", "cancel", "disconnect"])
def test_a_command_does_not_outlive_its_call(board: Board, ended_by: str) -> None:
    file = board.home / "pids"
    # a child of the command too: all of its group is ended
    command = ["sh", "-c", 'sleep 600 & echo $$ $! > "$HOME/pids.new"; mv "$HOME/pids.new" "$HOME/pids"; wait']

    async def end(device: Device) -> None:
        task = asyncio.ensure_future(device.run(command, timeout_s=3 if ended_by == "timeout" else None))
        while not file.exists():
            await asyncio.sleep(0.02)
        if ended_by == "cancel":
            task.cancel()
        if ended_by == "disconnect":
            board.cut()
        await task

    expected = {"timeout": DeviceError, "cancel": asyncio.CancelledError, "disconnect": ConnectionLostError}
    with pytest.raises(expected[ended_by]):
        on(board, end)
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_a_file_arrives_whole_and_leaves_no_part(board: Board, tmp_path: Path) -> None:
    source = tmp_path / "engine.onnx"
    source.write_bytes(os.urandom(9_000_000))
    target = board.home / "models" / "it's an engine.onnx"
    done = on(board, lambda d: d.put(source, str(target)))
    assert (done.total_bytes, done.resumed_bytes) == (9_000_000, 0)
    assert target.read_bytes() == source.read_bytes()
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    back = tmp_path / "back" / "engine.onnx"
    on(board, lambda d: d.get(str(target), back))
    assert back.read_bytes() == source.read_bytes()
    assert [p.name for p in back.parent.iterdir()] == [back.name]


def test_relative_paths_begin_in_the_login_folder(board: Board, tmp_path: Path) -> None:
    """Which is the real user's here: what is put there goes to a name of its own, and is removed."""
    name = f"edgeprune-test-{board.port}"
    (tmp_path / "x").write_text("x")

    async def there_and_back(device: Device) -> str:
        await device.put(tmp_path / "x", f"{name}/deep/x")
        await device.get(f"{name}/deep", tmp_path / "back")
        return (await device.run(["cat", f"{name}/deep/x"])).stdout

    try:
        assert on(board, there_and_back) == "x"
        assert (tmp_path / "back" / "x").read_text() == "x"
    finally:
        on(board, lambda d: d.run(["rm", "-rf", name]))


def test_an_empty_file_and_a_replaced_one(board: Board, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"")
    target = board.home / "x"
    target.write_text("what was there")
    on(board, lambda d: d.put(source, str(target)))
    assert target.read_bytes() == b""


def test_a_folder_changes_places_as_one(board: Board, tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "manifest.json").write_text("{}")
    (source / "deep" / "er" / "engine.bin").write_bytes(os.urandom(100_000))
    target = board.home / "bundle"
    target.mkdir()
    (target / "old").write_text("of the last bundle")
    part = board.home / "bundle.part"
    part.mkdir()
    (part / "stray").write_text("of a copy that was given up")
    on(board, lambda d: d.put(source, str(target)))
    back = tmp_path / "back"
    on(board, lambda d: d.get(str(target), back))
    for folder in (target, back):
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert found == {
            "manifest.json": b"{}", "deep/er/engine.bin": (source / "deep" / "er" / "engine.bin").read_bytes(),
        }  # fmt: skip
    assert sorted(p.name for p in board.home.iterdir()) == ["bundle"]


def test_a_copy_goes_on_after_its_connection_was_killed(board: Board, tmp_path: Path) -> None:
    """The connection dies with 20 of 40 MB on the device; sftp-server's own log says how much was sent after that."""
    source = tmp_path / "engine.onnx"
    source.write_bytes(os.urandom(40_000_000))
    target = board.home / "engine.onnx"
    cut = []

    def progress(done: int, total: int) -> None:
        if done >= 20_000_000 and not cut:
            cut.append(done)
            assert not target.exists()
            board.cut()

    done = on(board, lambda d: d.put(source, str(target), progress))
    assert cut
    assert done.resumed_bytes >= 20_000_000 - 2 * copy.BLOCK
    assert written(board)[-1] == 40_000_000 - done.resumed_bytes
    assert target.read_bytes() == source.read_bytes()
    assert not (board.home / "engine.onnx.part").exists()


def test_fetching_goes_on_after_its_connection_was_killed(board: Board, tmp_path: Path) -> None:
    source = board.home / "samples.bin"
    source.write_bytes(os.urandom(40_000_000))
    target = tmp_path / "samples.bin"
    cut = []

    def progress(done: int, total: int) -> None:
        if done >= 20_000_000 and not cut:
            cut.append(done)
            board.cut()

    done = on(board, lambda d: d.get(str(source), target, progress))
    assert cut
    assert 0 < done.resumed_bytes < 40_000_000
    assert target.read_bytes() == source.read_bytes()
    assert not (tmp_path / "samples.bin.part").exists()


def test_a_device_that_stays_away_keeps_the_part_and_the_next_call_goes_on(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.05)
    source = tmp_path / "engine.onnx"
    source.write_bytes(os.urandom(30_000_000))
    target = board.home / "engine.onnx"

    def progress(done: int, total: int) -> None:
        if done >= 16_000_000 and board.processes:
            board.stop()

    with pytest.raises(ConnectionLostError) as caught:
        on(board, lambda d: d.put(source, str(target), progress))
    assert "run the same command again" in str(caught.value)
    assert not target.exists()
    assert (board.home / "engine.onnx.part").stat().st_size >= 16_000_000
    board.start()
    done = on(board, lambda d: d.put(source, str(target)))
    assert done.resumed_bytes >= 16_000_000 - copy.BLOCK
    assert target.read_bytes() == source.read_bytes()


def test_a_part_of_something_else_is_begun_anew(board: Board, tmp_path: Path) -> None:
    source = tmp_path / "engine.onnx"
    source.write_bytes(os.urandom(10_000_000))
    (board.home / "engine.onnx.part").write_bytes(os.urandom(9_000_000))
    done = on(board, lambda d: d.put(source, str(board.home / "engine.onnx")))
    assert done.resumed_bytes == 0
    assert (board.home / "engine.onnx").read_bytes() == source.read_bytes()


def test_a_part_with_a_hole_in_its_last_block_is_mended(board: Board, tmp_path: Path) -> None:
    source = tmp_path / "engine.onnx"
    content = os.urandom(20_000_000)
    source.write_bytes(content)
    holed = bytearray(content[:15_000_000])
    holed[14_000_000:14_100_000] = bytes(100_000)
    (board.home / "engine.onnx.part").write_bytes(holed)
    done = on(board, lambda d: d.put(source, str(board.home / "engine.onnx")))
    assert done.resumed_bytes == 15_000_000 - copy.BLOCK
    assert (board.home / "engine.onnx").read_bytes() == content


def test_what_arrives_differently_is_removed(board: Board, tmp_path: Path) -> None:
    """The device flips a byte behind the copy's back, before it is hashed: its `sha256sum` is a script that does it."""
    source = tmp_path / "engine.onnx"
    source.write_bytes(os.urandom(1_000_000))
    part = board.home / "engine.onnx.part"
    tool = board.tools / "sha256sum"
    real = tool.readlink()
    tool.unlink()
    tool.write_text(f"#!/bin/sh\nprintf X | /bin/dd of='{part}' bs=1 seek=5000 conv=notrunc 2>/dev/null\nexec {real}\n")
    tool.chmod(0o755)
    content = bytearray(source.read_bytes())
    content[5000] = ord("Y")
    source.write_bytes(content)
    said = refused(board, lambda d: d.put(source, str(board.home / "engine.onnx")))
    assert "not the original" in said
    assert list(board.home.iterdir()) == []


def test_what_is_not_there_or_not_allowed_is_said(board: Board, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_text("x")
    assert "no such file" in refused(board, lambda d: d.put(tmp_path / "none", "x"))
    assert "no such file or folder on the device" in refused(board, lambda d: d.get("/none", tmp_path / "y"))
    assert not (tmp_path / "y.part").exists()
    (board.tools / "sha256sum").unlink()
    assert "can't hash" in refused(board, lambda d: d.put(source, str(board.home / "x")))
    assert not (board.home / "x").exists()


@pytest.fixture
def full_soon(board: Board) -> Iterator[Path]:
    with small_disk(board.home / "small", 12) as folder:
        yield folder


def test_a_full_disk_is_found_before_the_first_byte(board: Board, full_soon: Path, tmp_path: Path) -> None:
    source = tmp_path / "engine.onnx"
    source.write_bytes(os.urandom(20_000_000))
    said = refused(board, lambda d: d.put(source, str(full_soon / "engine.onnx")))
    assert "disk is full" in said
    assert list(full_soon.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_keeps_no_part(board: Board, full_soon: Path, tmp_path: Path) -> None:
    source = tmp_path / "engine.onnx"
    source.write_bytes(os.urandom(9_000_000))

    def progress(done: int, total: int) -> None:
        if not (full_soon / "log").exists():
            (full_soon / "log").write_bytes(bytes(6_000_000))

    said = refused(board, lambda d: d.put(source, str(full_soon / "engine.onnx"), progress))
    assert "disk is full" in said
    assert [p.name for p in full_soon.iterdir()] == ["log"]
