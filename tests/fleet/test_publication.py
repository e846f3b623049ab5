"""Publishing is atomic for readers: killed or out of space at any change of the disk, and with others at it too."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError

from edgeprune.errors import UpdateError
from edgeprune.fleet import authority, publication
from edgeprune.fleet.init import init
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.publish import examine, publish, revert
from edgeprune.fleet.repository import Repository
from edgeprune.records.signing import KEY_ROLES, KeyRole
from tests.conftest import ROOT
from tests.fleet import faults
from tests.fleet.bundles import make_bundle
from tests.fleet.clients import get_release, get_rollout
from tests.fleet.fleets import NOW, PASSWORD, days, make_fleet, password, release_of, reopen, rollout_of

Act = Callable[[Repository, Path], object]


def _publish(repository: Repository, work: Path) -> object:
    return publish(repository, "cells", [examine(work / "next" / "bundle")])


ACTS: dict[str, Act] = {
    "publish": _publish,
    "revert": lambda repository, _: revert(repository, "cells", 1),
    "rollout": lambda repository, _: repository.put_rollouts(rollout_of(2, serial=2)),
    "renewal": lambda repository, _: repository.renew(NOW + days(9)),
    "product": lambda repository, _: authority.add_product(repository, "toasters"),
    "root": lambda repository, _: authority.rotate(repository, "root"),
    "targets": lambda repository, _: authority.rotate(repository, "targets"),
    "online": lambda repository, _: authority.rotate(repository, "online"),
    "release": lambda repository, _: authority.rotate(repository, "release"),
}


#: The others are the same code with other roles.
QUICK = ("publish", "rollout")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: what is tested is the order of things, not the disk's patience."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None, prefix="edgeprune-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two releases and a rollout, a device that knows them, and a bundle to publish."""
    folder = tmp_path_factory.mktemp("fleet")
    repository = make_fleet(folder)
    release_of(repository, folder / "work", 1, 2)
    repository.put_rollouts(rollout_of(1))
    assert get_release(repository.folder, folder / "device", "cells", 2)
    make_bundle(folder / "next", "pi", 3)
    return folder


def copy_of(begun: Path, to: Path) -> Repository:
    for name in ("repo", "keys", "device"):
        shutil.copytree(begun / name, to / name, symlinks=True)
    return reopen(Repository(to / "repo"))


def serves(folder: Path) -> tuple[int, int]:
    """What a device that knows the repository and one that doesn't get, all of it verified: release, serial."""
    found = []
    for cache in (folder / "device", folder / "new"):
        releases = [get_release(folder / "repo", cache, "cells", counter) for counter in (1, 2, 3)]
        rollout = get_rollout(folder / "repo", cache, "stable")
        assert rollout is not None
        found.append((sum(release is not None for release in releases), rollout.serial))
    assert found[0] == found[1]
    return found[0]


def goes_on(folder: Path, begun: Path, releases: int) -> None:
    """Another process publishes, and it reaches the device."""
    repository = reopen(Repository(folder / "repo"))
    release = _publish(repository, begun)
    assert release.counter == releases + 1  # type: ignore[attr-defined]
    repository.put_rollouts(rollout_of(release.counter, serial=9))  # type: ignore[attr-defined]
    assert get_rollout(folder / "repo", folder / "device", "stable") is not None
    assert reopen(repository).published().problems(NOW) == ()
    assert not (folder / "repo" / publication.STAGED).exists()


def points(begun: Path, folder: Path, act: Act, error: int | None = None) -> list[int]:
    """Fault after fault until none is met; the exit code of each. After each the state is one of two, and goes on."""
    codes: list[int] = []
    states: dict[int, set[tuple[int, int]]] = {}
    while True:
        here = folder / str(len(codes))
        repository = copy_of(begun, here)
        code = faults.run(lambda repository=repository: act(repository, begun), len(codes) + 1, error)  # type: ignore[misc]
        assert code in (-9, faults.ENDED, faults.REFUSED, faults.BROKE, faults.UNHEARD)
        state = serves(here)
        states.setdefault(code, set()).add(state)
        goes_on(here, begun, state[0])
        shutil.rmtree(here)
        codes.append(code)
        if code == faults.ENDED:
            assert states.get(faults.UNHEARD, {state}) == {state}  # what only clears up may fail
            assert set.union(*states.values()) <= {(2, 1), state}
            return codes


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ACTS]
)
def test_killed_at_any_change_of_the_disk(begun: Path, memory: Path, name: str) -> None:
    codes = points(begun, memory, ACTS[name])
    assert len(codes) > 20
    assert set(codes[:-1]) == {-9}
    print(f"{name}: {len(codes) - 1} points")


def test_making_one_killed_at_any_change_of_the_disk(memory: Path) -> None:
    """The same command again makes it, or finds it made."""

    def make(folder: Path) -> Repository:
        keys = folder / "keys"
        return init(folder / "repo", Keyring(keys, password) if keys.is_dir() else Keyring.make(keys, password))

    for at in range(1, 1000):
        here = memory / str(at)
        code = faults.run(lambda here=here: make(here), at)  # type: ignore[misc]
        if (here / "repo").exists():
            reopen(Repository(here / "repo")).renew(roles=("targets",))
        else:
            make(here)
        assert reopen(Repository(here / "repo")).published().problems(NOW) == ()
        shutil.rmtree(here)
        if code == faults.ENDED:
            break
    assert at > 50


@pytest.mark.parametrize("name", ["publish", pytest.param("online", marks=pytest.mark.slow)])
def test_no_space_at_any_change_of_the_disk(begun: Path, memory: Path, name: str) -> None:
    codes = points(begun, memory, ACTS[name], errno.ENOSPC)
    assert len(codes) > 20
    assert set(codes[:-1]) == {faults.REFUSED}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["publish", "online"])
def test_a_disk_error_at_any_change_of_the_disk(begun: Path, memory: Path, name: str) -> None:
    codes = points(begun, memory, ACTS[name], errno.EIO)
    assert len(codes) > 20
    assert set(codes[:-1]) <= {faults.BROKE, faults.REFUSED, faults.UNHEARD}


@pytest.mark.slow
@pytest.mark.parametrize("role", ["online", "targets"])
def test_killed_at_any_change_of_the_disk_while_a_lost_key_is_replaced(
    begun: Path, memory: Path, role: KeyRole
) -> None:
    """Nobody can sign for both roots: devices may be kept waiting, but the next publication makes it whole."""
    kept_waiting = 0
    for at in range(1, 1000):
        here = memory / str(at)
        repository = copy_of(begun, here)
        for path in (here / "keys").glob(f"{role}-*"):
            path.unlink()
        repository = reopen(repository)
        code = faults.run(lambda repository=repository: authority.rotate(repository, role), at)  # type: ignore[misc]
        try:
            assert serves(here) == (2, 1)
        except RepositoryError:
            kept_waiting += 1
            assert reopen(repository).published().problems(NOW) != ()
            reopen(repository).renew()
            assert serves(here) == (2, 1)
        if any(key.keyid not in reopen(repository).keyring.keys for key in _signers(repository)):
            authority.rotate(reopen(repository), role)
        goes_on(here, begun, 2)
        shutil.rmtree(here)
        if code == faults.ENDED:
            break
    assert kept_waiting < 10


def _signers(repository: Repository) -> list[Key]:
    trusted = repository.published().trusted
    return [key for seat in authority.seats(trusted.root, trusted.targets) for key in seat.keys]


def _publish_some(folder: Path, number: int) -> None:
    for n in range(3):
        bundle = make_bundle(folder / f"p{number}-{n}", "pi", 100 + 10 * number + n)
        publish(reopen(Repository(folder / "repo")), "cells", [examine(bundle)])


def test_publishers_at_once_take_turns(begun: Path, memory: Path) -> None:
    repository = copy_of(begun, memory)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_publish_some, args=(memory, number)) for number in range(3)]
    for process in processes:
        process.start()
    for serial in range(2, 6):
        reopen(repository).put_rollouts(rollout_of(2, serial=serial))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert [release.counter for release in repository.releases("cells")] == list(range(1, 12))
    assert len({release.builds[0].archive.sha256 for release in repository.releases("cells")}) == 11
    assert repository.published().problems(NOW) == ()
    assert get_release(repository.folder, memory / "device", "cells", 11) is not None
    assert get_rollout(repository.folder, memory / "device", "stable") == rollout_of(2, serial=5)


def test_a_publisher_waits_for_another_and_then_says_so(begun: Path, memory: Path) -> None:
    repository = copy_of(begun, memory)
    with open(repository.folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(UpdateError, match="Somebody else is publishing"),
            publication.locked(repository.folder, 0.1),
        ):
            pass
    with publication.locked(repository.folder, 0.1):
        pass


def test_a_folder_that_changes_underneath_is_noticed(begun: Path, memory: Path) -> None:
    """Another host publishes into a synchronised folder, where no lock holds: ours isn't published over theirs."""
    repository = copy_of(begun, memory / "here")
    copy_of(begun, memory / "there").put_rollouts(rollout_of(2, serial=5))
    theirs = (memory / "there" / "repo" / "metadata" / "timestamp.json").read_bytes()

    def publish_beside() -> None:
        with repository.change(None, "rollouts") as (draft, _):
            draft.edit("rollouts")
            shutil.copytree(memory / "there" / "repo", repository.folder, dirs_exist_ok=True)

    with pytest.raises(UpdateError, match="Somebody else published meanwhile"):
        publish_beside()
    assert (repository.folder / "metadata" / "timestamp.json").read_bytes() == theirs
    goes_on(memory / "here", begun, 2)


def test_a_reader_always_finds_a_whole_state(begun: Path, memory: Path) -> None:
    """Devices poll without a pause while releases, rollouts and rotations are published."""
    repository = copy_of(begun, memory)
    fork = multiprocessing.get_context("fork")
    stop, polls = fork.Event(), fork.Value("i", 0)

    def poll() -> None:
        while not stop.is_set():
            shutil.rmtree(memory / "poller", ignore_errors=True)
            rollout = get_rollout(memory / "repo", memory / "poller", "stable")
            assert rollout is not None
            assert get_release(memory / "repo", memory / "poller", "cells", rollout.counter) is not None
            polls.value += 1

    reader = fork.Process(target=poll)
    reader.start()
    try:
        for number in range(3):
            release = _publish(repository, begun) if number == 0 else revert(repository, "cells", number)
            repository.put_rollouts(rollout_of(release.counter, serial=10 + number))  # type: ignore[attr-defined]
            for role in KEY_ROLES:
                authority.rotate(repository, role)
    finally:
        stop.set()
        reader.join()
    assert reader.exitcode == 0
    assert polls.value > 3


_SCRIPT = """
import os, sys
from pathlib import Path
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.init import init
from edgeprune.fleet.keys import Keyring
from edgeprune.fleet.publish import examine, publish
from edgeprune.fleet.repository import Repository
folder, bundle = map(Path, sys.argv[1:])
offered = [examine(bundle)]
repository = Repository.open(folder / "repo", Keyring(folder / "keys"))
os.rmdir(folder / "begin")  # what strace counts from
publish(repository, "cells", offered)
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["rename", "fsync", "write", "mkdir", "rmdir"])
def test_killed_by_strace_at_any_system_call(begun: Path, memory: Path, call: str) -> None:
    """The same from outside, by the kernel's own count: a publishing process dies at every call of a kind."""
    if shutil.which("strace") is None:
        pytest.skip("left out: no strace")
    environment = {**os.environ, "EDGEPRUNE_KEY_PASSWORD": PASSWORD, "PYTHONDONTWRITEBYTECODE": "1"}

    def traced(here: Path, *options: str) -> subprocess.CompletedProcess[str]:
        (here / "begin").mkdir()
        log = ["-o", str(here / "log")]
        command = ["strace", "-f", *log, *options, sys.executable, "-c", _SCRIPT, str(here), str(begun / "next/bundle")]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    copy_of(begun, memory / "all")
    done = traced(memory / "all", "-e", f"trace={call},rmdir")
    assert done.returncode == 0, done.stderr
    lines = (memory / "all" / "log").read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if "rmdir" in line and "begin" in line)
    before = sum(f" {call}(" in line for line in lines[:begin])
    total = sum(f" {call}(" in line for line in lines)
    assert total > before
    for at in range(before + 1, total + 1):
        here = memory / str(at)
        copy_of(begun, here)
        done = traced(here, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={at}")
        assert done.returncode == -9, done.stderr
        assert serves(here) in ((2, 1), (3, 1))
        goes_on(here, begun, serves(here)[0])
        shutil.rmtree(here)
    print(f"{call}: {total - before} points")
