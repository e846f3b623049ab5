"""Releases: what a device gets of them, what is deterministic in them, and what is never published."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import bsdiff4
import pytest

from edgeprune.errors import BundleError, UpdateError
from edgeprune.fleet.archive import PAYS, pack
from edgeprune.fleet.publish import BASES, examine, publish, revert
from edgeprune.runtime.bundle import open_bundle
from tests.fleet.bundles import make_bundle
from tests.fleet.clients import get, get_release
from tests.fleet.fleets import NOW, make_fleet, release_of, reopen, state_of

#: How archives are unpacked; Python 3.11.2, Debian 12's, has no filters yet.
SAFELY = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def test_a_device_gets_the_release_and_its_bundle(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    made = [make_bundle(tmp_path / sku, sku, latency_ms=3.5) for sku in ("pi", "jetson")]
    release = publish(repository, "cells", [examine(folder) for folder in made], label="night shift")
    assert (release.counter, release.label) == (1, "night shift")
    assert get_release(repository.folder, tmp_path / "device", "cells", 1) == release
    build = release.build_for("pi")
    assert build is not None
    assert (build.latency_ms, build.forced, build.runtime.split()[0]) == (3.5, None, "onnxruntime")
    archive = get(repository.folder, tmp_path / "device", build.archive.path)
    assert archive is not None
    with tarfile.open(archive) as tar:
        assert tar.getnames()[0] == "manifest.json"
        tar.extractall(tmp_path / "slot", **SAFELY)
    assert open_bundle(tmp_path / "slot") == open_bundle(made[0])


def test_an_archive_depends_on_nothing_but_the_bundle(tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "a", files={"z.txt": b"z", "b.txt": b"b"})
    pack(made, open_bundle(made), tmp_path / "first.tar")
    with tarfile.open(tmp_path / "first.tar") as tar:
        tar.extractall(tmp_path / "b" / "bundle", **SAFELY)
    os.utime(tmp_path / "b" / "bundle" / "b.txt", (1, 1))
    os.chmod(tmp_path / "b" / "bundle" / "z.txt", 0o600)
    pack(tmp_path / "b" / "bundle", open_bundle(tmp_path / "b" / "bundle"), tmp_path / "second.tar")
    assert (tmp_path / "first.tar").read_bytes() == (tmp_path / "second.tar").read_bytes()


def test_deltas_make_the_archive_of_those_of_the_last_releases(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release = release_of(repository, tmp_path, *range(BASES + 2), pad_bytes=50_000)
    (build,) = release.builds
    assert len(build.deltas) == BASES
    published = repository.published()
    by_hash = {b.archive.sha256: b.archive for r in published.releases("cells") for b in r.builds}
    for delta in build.deltas:
        assert delta.file.bytes < PAYS * build.archive.bytes
        base = published.file(by_hash[delta.base_sha256].path).read_bytes()
        made = bsdiff4.patch(base, published.file(delta.file.path).read_bytes())
        assert made == published.file(build.archive.path).read_bytes()


def test_no_delta_where_it_does_not_pay(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    noise = [make_bundle(tmp_path / str(n), "pi", files={"noise.bin": os.urandom(500_000)}) for n in range(2)]
    for folder in noise:
        release = publish(repository, "cells", [examine(folder)])
    assert release.builds[0].deltas == ()


def test_the_same_bundle_again_is_the_same_file(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    first = release_of(repository, tmp_path, 1, skus=("pi", "jetson"))
    again = publish(repository, "cells", [
        examine(tmp_path / "pi-1" / "bundle"), examine(make_bundle(tmp_path / "new", "jetson", 2))
    ])  # fmt: skip
    assert again.build_for("pi") == first.build_for("pi")
    assert again.build_for("jetson") != first.build_for("jetson")
    assert get_release(repository.folder, tmp_path / "device", "cells", 2) == again


def test_a_revert_is_a_new_number_for_old_bytes(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path, 1, 2, 3)
    back = revert(repository, "cells", 1)
    assert (back.counter, back.reverts_to) == (4, 1)
    first = repository.release("cells", 1)
    assert back.builds[0].archive == first.builds[0].archive
    newest = repository.release("cells", 3).builds[0].archive.sha256
    assert newest in {delta.base_sha256 for delta in back.builds[0].deltas}  # who has the newest one comes back cheaply
    assert get_release(repository.folder, tmp_path / "device", "cells", 4) == back


def test_what_no_report_accepted_is_published_by_force_alone_and_says_so(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    rejected = make_bundle(tmp_path / "rejected", "pi", accepted=False)
    with pytest.raises(UpdateError, match="rejected it: faster"):
        examine(rejected)
    with pytest.raises(UpdateError, match="no report"):
        examine(make_bundle(tmp_path / "bare", "pi", report=False))
    other = make_bundle(tmp_path / "other", "pi", latency_ms=9.0)
    shutil.copy(tmp_path / "rejected" / "report.json", tmp_path / "other" / "report.json")
    with pytest.raises(UpdateError, match="another build's"):
        examine(other)
    with pytest.raises(UpdateError, match="needs a reason"):
        examine(rejected, force=lambda why: " ")
    asked: list[str] = []

    def insist(why: str) -> str:
        asked.append(why)
        return "the customer waits"

    forced = examine(rejected, force=insist)
    assert "rejected" in asked[0]
    release = publish(repository, "cells", [forced])
    assert release.builds[0].forced is not None
    assert release.builds[0].forced.startswith("the customer waits (its report rejected it")
    accepted = make_bundle(tmp_path / "accepted", "pi", 2)
    assert examine(accepted, force=lambda why: "never asked").forced is None


def test_a_changed_bundle_is_not_published(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", "pi")
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match="not the one that was measured"):
        examine(folder, force=lambda why: "even by force")


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_bundle_that_changes_after_it_was_opened_is_not_published(tmp_path: Path, name: str) -> None:
    repository = make_fleet(tmp_path / "fleet")
    offered = examine(make_bundle(tmp_path / "a", "pi", 1))
    shutil.copy(make_bundle(tmp_path / "b", "pi", 2) / name, offered.folder / name)
    before = state_of(tmp_path / "fleet")
    with pytest.raises(BundleError, match="changed while it was packed"):
        publish(repository, "cells", [offered])
    assert state_of(tmp_path / "fleet") == before


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("two of a SKU", "one bundle a SKU"),
        ("no bundle", "one bundle a SKU"),
        ("unknown SKU", "never had the SKU toaster"),
        ("unknown product", "Nobody knows the product cels"),
        ("revert to the newest", "nothing to take back"),
        ("revert to an unknown one", "has no release 7"),
    ],
)
def test_refused_and_nothing_changed(tmp_path: Path, what: str, said: str) -> None:
    repository = make_fleet(tmp_path)
    release_of(repository, tmp_path / "work", 1, 2)
    pi, toaster = (examine(make_bundle(tmp_path / sku, sku)) for sku in ("pi", "toaster"))
    before = state_of(tmp_path)
    with pytest.raises(UpdateError, match=said) as raised:
        {
            "two of a SKU": lambda: publish(repository, "cells", [pi, pi]),
            "no bundle": lambda: publish(repository, "cells", []),
            "unknown SKU": lambda: publish(repository, "cells", [toaster]),
            "unknown product": lambda: publish(repository, "cels", [pi]),
            "revert to the newest": lambda: revert(repository, "cells", 2),
            "revert to an unknown one": lambda: revert(repository, "cells", 7),
        }[what]()
    assert raised.value.code == 2
    assert state_of(tmp_path) == before
    publish(reopen(repository), "cells", [pi, toaster], new_skus=True)


def test_a_sku_that_cannot_stand_in_a_path_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "b", "../x")
    with pytest.raises(UpdateError, match="SKU's name"):
        examine(folder)


def test_a_base_that_was_changed_on_disk_makes_no_delta(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    first = release_of(repository, tmp_path, 1)
    path = repository.published().file(first.builds[0].archive.path)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UpdateError, match="not what was signed"):
        release_of(repository, tmp_path, 2)
    assert repository.newest("cells") == 1
    assert "pi.tar" in repository.published().problems(NOW)[0]


def test_release_json_is_the_record(tmp_path: Path) -> None:
    repository = make_fleet(tmp_path)
    release = release_of(repository, tmp_path, 1)
    path = get(repository.folder, tmp_path / "device", "models/cells/1/release.json")
    assert path is not None
    assert json.loads(path.read_bytes()) == release.model_dump(mode="json")
