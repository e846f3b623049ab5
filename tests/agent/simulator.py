"""A fleet's repository made with python-tuf alone, and a device of it: attacks and faults need no honest publisher.

    fleet = Repository(tmp_path / "repo")
    fleet.release(1, bundle); fleet.rollout(1); fleet.publish()
    device = Device(tmp_path, fleet); device.once()

Everything in a `Repository` may be changed before `publish` signs it again: versions, expiries, keys, what files say.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import bsdiff4
import yaml
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgeprune.agent.update import Agent
from edgeprune.machine import boot
from edgeprune.records import Bundle, Heartbeat, Release, ReleaseBuild, Rollout, Wave, read_json, write_json
from edgeprune.records.agent import STATE, AgentState, read_config
from edgeprune.records.archive import pack
from edgeprune.records.base import to_json
from edgeprune.records.files import sha256_file
from edgeprune.records.release import Delta, FleetFile, archive_path, delta_path, release_path
from edgeprune.runtime.bundle import open_bundle, open_slot

PRODUCT, CHANNEL, SKU = "cells", "stable", "colours"
ROLES = ("root", "targets", "snapshot", "timestamp", "models", "rollouts")
LONG = timedelta(days=365)
ROOT = Path(__file__).resolve().parents[2]


def now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


class Repository:
    """A repository in memory, and the folder that it is written to.

    Attributes:
        keys: Role -> its signer; replace one to rotate it, and `rotate` to have the others say so.
        roots: Every root that was signed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = {role: CryptoSigner.generate_ed25519() for role in ROLES}
        self.roots: list[Metadata[Root]] = []
        self.root = Root(version=1, expires=now() + LONG, consistent_snapshot=True)
        for role in ROLES[:4]:
            self.root.add_key(self.keys[role].public_key, role)
        self.models, self.rollouts = Targets(expires=now() + LONG), Targets(expires=now() + LONG)
        self.targets = Targets(expires=now() + LONG)
        self.targets.delegations = Delegations(
            {}, {
                f"models-{PRODUCT}": DelegatedRole(f"models-{PRODUCT}", [], 1, True, [f"models/{PRODUCT}/*/*"]),
                "rollouts": DelegatedRole("rollouts", [], 1, True, ["rollouts/*.json"]),
            },
        )  # fmt: skip
        self.targets.add_key(self.keys["models"].public_key, f"models-{PRODUCT}")
        self.targets.add_key(self.keys["rollouts"].public_key, "rollouts")
        self.snapshot, self.timestamp = Snapshot(expires=now() + LONG), Timestamp(expires=now() + LONG)
        self.releases: dict[int, Release] = {}
        self.sign_root([self.keys["root"]])

    @property
    def url(self) -> str:
        return self.folder.as_uri()

    def sign_root(self, signers: list[CryptoSigner]) -> None:
        """Another version of the root, as it is now."""
        document = Metadata(copy.deepcopy(self.root))
        for signer in signers:
            document.sign(signer, append=True)
        self.roots.append(document)

    def rotate(self, *roles: str) -> None:
        """New keys for top-level roles, in a new root."""
        before = self.keys["root"]
        for role in roles:
            old = self.keys[role]
            self.keys[role] = CryptoSigner.generate_ed25519()
            if role in ("models", "rollouts"):
                name = f"models-{PRODUCT}" if role == "models" else role
                self.targets.revoke_key(old.public_key.keyid, name)
                self.targets.add_key(self.keys[role].public_key, name)
                continue
            self.root.revoke_key(old.public_key.keyid, role)
            self.root.add_key(self.keys[role].public_key, role)
        if set(roles) & set(ROLES[:4]):
            self.root.version += 1
            self.sign_root(list({id(one): one for one in (before, self.keys["root"])}.values()))

    def add(self, role: Targets, path: str, content: bytes) -> FleetFile:
        """A TUF target file, signed for by a role and written."""
        target = TargetFile.from_data(path, content, ["sha256"])
        role.targets[path] = target
        folder, _, name = path.rpartition("/")
        file = self.folder / "targets" / folder / f"{target.hashes['sha256']}.{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if not path.startswith("models/"):
            path = "models/x/1/y"
        return FleetFile(path=path, sha256=target.hashes["sha256"], bytes=len(content))

    def build(self, counter: int, bundle: Path, *, base: int | None = None, **changed: Any) -> ReleaseBuild:
        """A build of a bundle, its archive added; with a patch from release `base`'s."""
        packed = self.folder.parent / f"{self.folder.name}.tar"
        packed.parent.mkdir(parents=True, exist_ok=True)
        pack(bundle, packed)
        content, manifest = packed.read_bytes(), open_bundle(bundle)
        deltas = ()
        if base is not None:
            old = next(self.folder.glob(f"targets/{archive_path(PRODUCT, base, SKU).rpartition('/')[0]}/*.tar"))
            patch = bsdiff4.diff(old.read_bytes(), content)
            file = self.add(self.models, delta_path(PRODUCT, counter, SKU, base), patch)
            deltas = (Delta(base_sha256=sha256_file(old), file=file),)
        fields = {
            "sku": SKU, "architecture": manifest.architecture, "runtime": manifest.measured.runtime,
            "archive": self.add(self.models, archive_path(PRODUCT, counter, SKU), content),
            "manifest_sha256": sha256_file(bundle / "manifest.json"), "deltas": deltas,
            "latency_ms": manifest.measured.latency_ms.p50, "latency_tolerance": 100.0,
        }  # fmt: skip
        return ReleaseBuild(**(fields | changed))

    def release(self, counter: int, bundle: Path, *, base: int | None = None, **changed: Any) -> Release:
        """A release of one build."""
        made = Release(product=PRODUCT, counter=counter, builds=(self.build(counter, bundle, base=base, **changed),))
        return self.put(made, counter)

    def put(self, release: Release, counter: int) -> Release:
        """A release as it is, at the place of a counter."""
        self.add(self.models, release_path(PRODUCT, counter), to_json(release))
        self.releases[counter] = release
        return release

    def rollout(self, counter: int, serial: int = 1, *, percent: float = 100.0, **changed: Any) -> Rollout:
        """The channel's rollout."""
        fields = {
            "channel": CHANNEL, "product": PRODUCT, "serial": serial, "counter": counter, "salt": "saltsalt",
            "waves": (Wave(percent=percent),), "since": now(),
        }  # fmt: skip
        made = Rollout(**(fields | changed))
        self.add(self.rollouts, f"rollouts/{CHANNEL}.json", to_json(made))
        return made

    def publish(self) -> None:
        """Sign all again, each with the next version, and write it."""
        for document in (self.models, self.rollouts, self.targets, self.snapshot, self.timestamp):
            document.version += 1
        self.sign()

    def sign(self) -> None:
        """Sign all as it is, and write it."""
        metadata = self.folder / "metadata"
        metadata.mkdir(parents=True, exist_ok=True)
        for root in self.roots:
            (metadata / f"{root.signed.version}.root.json").write_bytes(root.to_bytes())
        parts = {
            "targets": self.targets, f"models-{PRODUCT}": self.models, "rollouts": self.rollouts,
        }  # fmt: skip
        signers = {"targets": "targets", f"models-{PRODUCT}": "models", "rollouts": "rollouts"}
        for name, document in parts.items():
            self.write(f"{document.version}.{name}.json", document, signers[name])
            self.snapshot.meta[f"{name}.json"] = MetaFile(version=document.version)
        self.write(f"{self.snapshot.version}.snapshot.json", self.snapshot, "snapshot")
        self.timestamp.snapshot_meta = MetaFile(version=self.snapshot.version)
        self.write("timestamp.json", self.timestamp, "timestamp")

    def write(self, file: str, document: Any, role: str) -> None:
        """Sign one document with one role's key and write it."""
        signed = Metadata(document)
        signed.sign(self.keys[role])
        (self.folder / "metadata" / file).write_bytes(signed.to_bytes())


class Device:
    """A device of that fleet: its configuration, its folder, and what an application on it would say.

    Attributes:
        said: What its agent said.
        slept: Seconds that it was asked to sleep.
    """

    def __init__(self, place: Path, repository: Any, url: str = "", **changed: Any) -> None:
        self.folder, self.file = place / "device", place / "agent.yaml"
        place.mkdir(parents=True, exist_ok=True)
        first = repository.roots[0]
        (place / "root.json").write_bytes(first if isinstance(first, bytes) else first.to_bytes())
        config = {
            "device": "dev-1", "product": PRODUCT, "channel": CHANNEL, "sku": SKU, "runtime": "onnxruntime",
            "folder": "device", "root": "root.json", "repository": url or repository.url,
            "watch": {"by": "self-test", "seconds": 0}, "limits": {"test_images": 3, "backoff_s": 0.01},
        }  # fmt: skip
        for key, value in changed.items():
            config[key] = config[key] | value if isinstance(config.get(key), dict) else value  # type: ignore[operator]
        self.file.write_text(yaml.safe_dump(config))
        self.said: list[str] = []
        self.slept: list[float] = []

    def agent(self, **more: Any) -> Agent:
        return Agent(read_config(self.file), say=self.said.append, sleep=self.slept.append, **more)

    def once(self, **more: Any) -> Any:
        """One go, in this process."""
        wait = more.pop("wait", True)
        ending = self.agent(**more).once(wait=wait)
        self.said.append(ending.said)
        return ending

    def command(
        self, *arguments: str, before: tuple[str, ...] = (), timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """The agent as a command."""
        return subprocess.run(
            [*before, sys.executable, "-m", "edgeprune.agent", "--config", str(self.file), *arguments],
            capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    @property
    def state(self) -> AgentState:
        from edgeprune.errors import UpdateError

        return read_json(self.folder / STATE, AgentState, UpdateError)

    @property
    def counter(self) -> int | None:
        """Counter of the model that is current, which is checked file by file; None where there is none."""
        link = self.folder / "current"
        if not link.is_symlink():
            return None
        slot = self.folder / os.readlink(link)
        open_slot(slot)
        release = slot / "release.json"
        return Release.model_validate_json(release.read_text()).counter if release.is_file() else 0

    def slot_bundle(self) -> Bundle:
        """The bundle that is current."""
        return open_slot(self.folder / os.readlink(self.folder / "current"))[0]

    def factory(self, bundle: Path) -> None:
        done = self.agent().slots
        with done.alone():
            done.factory(bundle)

    def beat(self, counter: int, *, images: int = 100, errors: int = 0, pid: int = 7, ago_s: float = 0.0) -> None:
        """An application's heartbeat."""
        beat = Heartbeat(counter=counter, pid=pid, images=images, errors=errors, at_monotonic_s=boot()[1] - ago_s)
        write_json(self.folder / "heartbeat.json", beat)

    def copy(self, place: Path) -> Device:
        """The same device elsewhere, as it is on its disk, with all that lies beside it."""
        shutil.copytree(self.file.parent, place, symlinks=True)
        file = place / "agent.yaml"
        file.write_text(file.read_text().replace(str(self.file.parent), str(place)))
        made = object.__new__(Device)
        made.folder, made.file, made.said, made.slept = place / "device", place / "agent.yaml", [], []
        return made
