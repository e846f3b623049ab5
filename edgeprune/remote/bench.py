"""A bench that is a device over SSH: a request's files go there once, its command runs there, its answer comes back.

Rules:
- A file is sent under its content's hash (bench/store.py) and only if it isn't there: a second run sends what changed.
- What is missing goes as one archive: hundreds of images one by one would take a round trip each.
- A connection that breaks off is opened again and the request asked again; nothing is measured twice at once, since a
  command ends with its connection.
- A connection lasts for one request: between two, a host may train for hours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from edgeprune.bench.ask import Bench, refused, silent
from edgeprune.bench.device import Progress
from edgeprune.bench.local import LocalBench, tied
from edgeprune.errors import ConnectionLostError, DeviceError, ExitCode
from edgeprune.records import DeviceInfo, files, write_json
from edgeprune.records.address import DeviceAddress, parse_address
from edgeprune.records.request import ComputeRequest, Request, whole
from edgeprune.remote.device import ATTEMPTS, PAUSE_S, Device, connect
from edgeprune.remote.setup import ask, root_of


def bench_at(device: str) -> Bench:
    """The bench that an address means: this machine, or one over SSH.

    Raises:
        DeviceError: It isn't an address.
    """
    address = parse_address(device)
    return LocalBench() if address is None else SshBench(address)


class SshBench:
    """A device that answers over SSH."""

    def __init__(self, address: DeviceAddress) -> None:
        self.address = str(address)
        self._address = address
        self._info: DeviceInfo | None = None
        self._hashes: dict[tuple[Path, int, int], str] = {}

    @property
    def info(self) -> DeviceInfo:
        """What the device is, asked once."""
        if self._info is None:
            self._info = asyncio.run(_info(self._address))
        return self._info

    @property
    def architecture(self) -> str:
        """See `Bench.architecture`."""
        return self.info.architecture

    def versions(self, runtime: str) -> dict[str, str]:
        """See `Bench.versions`."""
        if runtime not in self.info.runtimes:
            raise DeviceError(
                "The runtime isn't installed on the device.", where=self.address, expected=runtime,
                got=", ".join(sorted(self.info.runtimes)) or "none",
                next_step=f"edgeprune device setup {self.address} --runtime {runtime}", code=ExitCode.NOT_SET_UP,
            )  # fmt: skip
        return tied(self.info, runtime)

    def ask(self, request: Request, into: Path, on_progress: Progress = silent) -> None:
        """See `Bench.ask`."""
        asyncio.run(self._persist(request, into, on_progress))

    async def _persist(self, request: Request, into: Path, on_progress: Progress) -> None:
        for attempt in range(ATTEMPTS):
            try:
                return await self._ask(request, into, on_progress)
            except ConnectionLostError:
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(PAUSE_S * 2**attempt)
        return None

    async def _ask(self, request: Request, into: Path, on_progress: Progress) -> None:
        async with connect(self._address) as device:
            root = await root_of(device)
            python = f"{root}/current/bin/python"
            if (await device.run(["test", "-x", python])).exit_code:
                await ask(device)  # says what is missing
            there = await self._deliver(device, root, request, on_progress)
            folder = f"{root}/requests/{secrets.token_hex(8)}"
            try:
                with tempfile.TemporaryDirectory() as work:
                    write_json(Path(work) / "request.json", request.moved(lambda file: there[file]))
                    await device.put(Path(work) / "request.json", f"{folder}/request.json")
                    words = [python, "-I", "-m", "edgeprune.bench", f"{folder}/request.json", f"{folder}/answer.json"]
                    done = await device.run(words, on_line=lambda line: _tell(line, on_progress))
                    if done.exit_code:
                        raise refused(done.exit_code, done.stderr.strip(), self.address)
                    await device.run(["rm", "-f", f"{folder}/request.json"])
                    await device.get(folder, Path(work) / "answer")
                    for file in (Path(work) / "answer").iterdir():
                        files.move(file, into / file.name)
            finally:
                passing = list(there.values()) if isinstance(request, ComputeRequest) else []
                await device.run(["rm", "-rf", "--", folder, *passing])

    async def _deliver(self, device: Device, root: str, request: Request, on_progress: Progress) -> dict[str, str]:
        """Have every file of a request on the device; its path here -> its path there."""
        units: dict[str, Path] = {}

        def note(file: str) -> str:
            units[file] = whole(Path(file))
            return file

        request.moved(note)
        entries = {unit: self._entry(unit) for unit in dict.fromkeys(units.values())}
        listed = await device.run(["ls", f"{root}/files"])
        present = set(listed.stdout.split()) if not listed.exit_code else set()
        missing = {entry: unit for unit, entry in sorted(entries.items()) if entry not in present}
        if missing:
            await self._send(device, root, missing, on_progress)
        there = {}
        for file, unit in units.items():
            inside = Path(file).relative_to(unit).as_posix()
            there[file] = f"{root}/files/{entries[unit]}" + ("" if inside == "." else f"/{inside}")
        return there

    async def _send(self, device: Device, root: str, missing: dict[str, Path], on_progress: Progress) -> None:
        with tempfile.TemporaryDirectory(prefix="edgeprune-send-") as folder:
            name = f"{hashlib.sha256(' '.join(missing).encode()).hexdigest()[:16]}.tar"  # the same again goes on
            archive = Path(folder) / name
            with files.no_space(archive):
                _pack(archive, missing.items())
            await device.put(
                archive, f"{root}/{name}", lambda done, total: on_progress(f"sending to {self.address}", done, total)
            )
        python = f"{root}/current/bin/python"
        done = await device.run([python, "-I", "-m", "edgeprune.bench.store", root, f"{root}/{name}"])
        if done.exit_code:
            raise refused(done.exit_code, done.stderr.strip(), self.address)

    def _entry(self, unit: Path) -> str:
        """The name under which a file or folder lies there."""
        if not unit.exists():
            raise DeviceError("The file to run on the device doesn't exist.", where=unit)
        if unit.is_dir():
            return files.sha256_file(unit)
        about = unit.stat()
        key = (unit, about.st_size, about.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = files.sha256_file(unit)
        return self._hashes[key] + unit.suffix


async def _info(address: DeviceAddress) -> DeviceInfo:
    async with connect(address) as device:
        return await ask(device)


def _tell(line: str, on_progress: Progress) -> None:
    try:
        step = json.loads(line)
        on_progress(step["what"], step["done"], step["total"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return  # a library's chatter


def _pack(archive: Path, entries: Iterable[tuple[str, Path]]) -> None:
    """A tar of the same bytes for the same contents, so that a copy that broke off goes on."""

    def add(tar: tarfile.TarFile, name: str, file: Path) -> None:
        about = tarfile.TarInfo(name)
        about.size = file.stat().st_size
        with open(file, "rb") as content:
            tar.addfile(about, content)

    with tarfile.open(archive, "w") as tar:
        for entry, unit in entries:
            if unit.is_file():
                add(tar, entry, unit)
                continue
            for file in sorted(p for p in unit.rglob("*") if p.is_file()):
                add(tar, f"{entry}/{file.relative_to(unit).as_posix()}", file)
