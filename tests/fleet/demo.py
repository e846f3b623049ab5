"""`make fleet-demo`: a fleet on one machine. A repository behind nginx, a broker, twenty devices with an agent and an
application each; a good release, one that is slower than it says, one that crashes on what the devices see.

Rules:
- All of it is what a fleet runs: commands of edgeprune, Debian's nginx and mosquitto, a process for each agent and each
  application. The detector alone is small: made by hand, in milliseconds (tests/fleet/bundles.py).
- It ends with 0 where the good release came to all, and both bad ones were halted with every device on the good one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rich.console import Console

from edgeprune.fleet.credentials import write_passwords
from tests.conftest import ROOT
from tests.fleet import broker, nginx
from tests.fleet.bundles import make_bundle, scene
from tests.fleet.status.processes import listening

PRODUCT, CHANNEL, SKU = "cells", "stable", "demo-box"
PASSWORD = "not a secret: a demo's"
#: Milliseconds that releases say an image takes, and how many times that a self-test may take: forty processes share
#: the cores here.
SAID_MS, TOLERANCE = 4.0, 10.0
#: Seconds that a rollout may take until the demo gives up.
PATIENCE_S = 150.0

console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


class Fleet:
    """The demo's folder, and commands in it.

    Attributes:
        devices: Names.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.repo = folder, folder / "repo"
        self.devices = [f"box-{number:02}" for number in range(1, count + 1)]
        self.environment = os.environ | {
            "EDGEPRUNE_FLEET_REPO": str(self.repo), "EDGEPRUNE_FLEET_KEYS": str(folder / "keys"),
            "EDGEPRUNE_KEY_PASSWORD": PASSWORD, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    def say(self, *arguments: object) -> str:
        """Run `edgeprune fleet …`; what it printed."""
        command = [sys.executable, "-m", "edgeprune", "fleet", *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise AssertionError(f"fleet {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def make(self, broker_: broker.Mosquitto) -> None:
        """Keys, product, and an enrolled device each with its factory model."""
        self.say("init", self.repo)
        self.say("product", "add", PRODUCT)
        told = self.say("enroll", *self.devices, "--sku", SKU, "--new-sku", "--mosquitto", broker_.passwords)
        self.tokens = dict(line.split("\t") for line in told.splitlines() if "\t" in line)
        images = self.folder / "images"
        images.mkdir()
        Image.fromarray(scene()).save(images / "cells.png")

    def configure(self, device: str, address: str, broker_: broker.Mosquitto, factory: Path) -> None:
        """agent.yaml of a device, and the model that it is made with."""
        home = self.folder / "devices" / device
        home.mkdir(parents=True)
        (home / "token").write_text(self.tokens[device])
        shutil.copyfile(self.repo / "metadata" / "1.root.json", home / "root.json")
        told = {
            "device": device, "product": PRODUCT, "channel": CHANNEL, "sku": SKU, "runtime": "onnxruntime",
            "folder": "edgeprune", "repository": address, "root": "root.json", "poll_s": 3.0,
            "status": {"kind": "mqtt", "url": broker_.url, "secret": "token", "ca": str(broker_.ca)},
            "watch": {"seconds": 7.0, "start_s": 60.0, "stale_s": 30.0, "restarts": 0}, "limits": {"test_images": 5},
        }  # fmt: skip
        (home / "agent.yaml").write_text(yaml.safe_dump(told))
        self.agent(device, "factory", factory)

    def agent(self, device: str, *arguments: object) -> None:
        config = self.folder / "devices" / device / "agent.yaml"
        command = [sys.executable, "-m", "edgeprune.agent", "--config", str(config), *map(str, arguments)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=120)

    def processes(self, device: str) -> tuple[list[str], list[str]]:
        """Commands of a device's agent and of its application."""
        home = self.folder / "devices" / device
        agent = [sys.executable, "-m", "edgeprune.agent", "--config", str(home / "agent.yaml"), "run"]
        application = [
            sys.executable, "-m", "edgeprune.agent.example", str(home / "edgeprune"), "--images",
            str(self.folder / "images"), "--every", "0.5",
        ]  # fmt: skip
        return agent, application

    def rollout(self) -> dict[str, Any]:
        told = json.loads(self.say("rollout", "status", "--channel", CHANNEL, "--json"))
        return dict(told[CHANNEL])

    def running(self) -> Counter[int]:
        """Release -> how many devices keep it, as the devices themselves have it."""
        found: Counter[int] = Counter()
        for device in self.devices:
            state = json.loads((self.folder / "devices" / device / "edgeprune" / "state.json").read_text())
            found[state["installed"]["counter"]] += 1
        return found


class Supervisor:
    """Keeps processes running, as systemd does: what ends is started again."""

    def __init__(self, commands: Sequence[list[str]], environment: dict[str, str], log: Path) -> None:
        self._commands, self._environment, self._log = commands, environment, log
        self._running: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep)

    def __enter__(self) -> Supervisor:
        self._running = [self._start(command) for command in self._commands]
        self._thread.start()
        return self

    def _keep(self) -> None:
        while not self._over.wait(0.5):
            for number, process in enumerate(self._running):
                if process.poll() is not None:
                    self._running[number] = self._start(self._commands[number])

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(self._log, "ab") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def slower(model: onnx.ModelProto) -> None:
    """A hundred times the work, for the same boxes; it begins with the image, so that no runtime does it beforehand."""
    _put(model, "square", np.random.default_rng(0).normal(0, 0.02, (512, 512)).astype(np.float32))
    brightness = helper.make_node("ReduceMean", ["images"], ["brightness"], keepdims=0)
    model.graph.node.extend([brightness, helper.make_node("Mul", ["square", "brightness"], ["busy"])])
    last = "busy"
    for number in range(64):
        model.graph.node.append(helper.make_node("MatMul", [last, "square"], [f"busy-{number}"]))
        last = f"busy-{number}"
    _add_nothing_of(model, last)


def crashing(model: onnx.ModelProto) -> None:
    """An index that isn't there, where an image's first pixels are black. A self-test's never are."""
    numbers = {"from": [0, 0, 0, 0], "to": [1, 3, 8, 8], "far": 100}
    for name, values in numbers.items():
        _put(model, name, np.array(values, np.int64))
    for name, values in {"table": [0, 0], "dark": 1e-6}.items():
        _put(model, name, np.array(values, np.float32))
    model.graph.node.extend(
        [
            helper.make_node("Slice", ["images", "from", "to"], ["corner"]),
            helper.make_node("ReduceMax", ["corner"], ["brightest"], keepdims=0),
            helper.make_node("Less", ["brightest", "dark"], ["black"]),
            helper.make_node("Cast", ["black"], ["is-black"], to=TensorProto.INT64),
            helper.make_node("Mul", ["is-black", "far"], ["index"]),
            helper.make_node("Gather", ["table", "index"], ["looked-up"]),
        ]
    )
    _add_nothing_of(model, "looked-up")


def _put(model: onnx.ModelProto, name: str, values: np.ndarray[Any, Any]) -> None:
    model.graph.initializer.append(numpy_helper.from_array(values, name))


def _add_nothing_of(model: onnx.ModelProto, tensor: str) -> None:
    """Make the output wait for a tensor, and stay as it is."""
    _put(model, "nothing", np.array(0, np.float32))
    next(node for node in model.graph.node if "output0" in node.output).output[0] = "found"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMean", [tensor], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
            helper.make_node("Add", ["found", "zero"], ["output0"]),
        ]
    )


def bring(fleet: Fleet, bundle: Path, label: str) -> dict[str, Any]:
    """Publish a bundle, roll it out, and tick until it is over; the rollout as it ended."""
    fleet.say("publish", bundle, "--product", PRODUCT, "--label", label, "--latency-tolerance", TOLERANCE, "--new-sku")
    console.print(f"\n[bold]{label}[/]")
    for line in fleet.say(
        "rollout", "start", "--product", PRODUCT, "--waves", "20,50,100", "--dwell", "2s"
    ).splitlines():
        console.print(f"  {line}", markup=False)
    begun, told = time.monotonic(), ""
    while time.monotonic() - begun < PATIENCE_S:
        said = fleet.say("tick")
        if said != told and said != "nothing to do":
            console.print(f"  {time.monotonic() - begun:5.1f} s  {said}", markup=False)
        told, found = said, fleet.rollout()
        if found["state"] in ("done", "halted"):
            return found
        time.sleep(1)
    raise AssertionError(f"{label} isn't over after {PATIENCE_S:g} s: {found}")


@contextmanager
def running(fleet: Fleet, factory: Path) -> Iterator[str]:
    """Everything that a fleet has, at work; yields the page's address."""
    with ExitStack() as stack:
        watched = broker.Mosquitto(_made(fleet.folder / "broker"))
        fleet.make(watched)
        write_passwords(watched.passwords, {broker.WATCHER: PASSWORD})
        watched.start()
        stack.callback(watched.stop)
        address = stack.enter_context(nginx.serving(fleet.repo, fleet.folder / "nginx"))
        environment = {key: fleet.environment[key] for key in ("EDGEPRUNE_FLEET_REPO", "PYTHONPATH")}
        page = stack.enter_context(
            listening("serve", "--http", "127.0.0.1:0", log=fleet.folder / "serve.log", **environment)
        )
        collect = [sys.executable, "-m", "edgeprune", "fleet", "collect", "--mqtt", watched.url]
        collect += ["--mqtt-user", broker.WATCHER, "--mqtt-ca", str(watched.ca)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda device: fleet.configure(device, address, watched, factory), fleet.devices))
        commands = [collect, *(command for device in fleet.devices for command in fleet.processes(device))]
        told = fleet.environment | {"EDGEPRUNE_MQTT_PASSWORD": PASSWORD}
        stack.enter_context(Supervisor(commands, told, fleet.folder / "devices.log"))
        yield page


def demo(folder: Path, devices: int, wait: bool) -> None:
    started, fleet = time.monotonic(), Fleet(folder, devices)
    good = make_bundle(folder / "builds" / "good", SKU, 1, latency_ms=SAID_MS)
    factory = make_bundle(folder / "builds" / "factory", SKU, 0, latency_ms=SAID_MS)
    slow = make_bundle(folder / "builds" / "slow", SKU, 2, latency_ms=SAID_MS, altered=slower)
    crashes = make_bundle(folder / "builds" / "crashes", SKU, 3, latency_ms=SAID_MS, altered=crashing)
    with running(fleet, factory) as page:
        console.print(f"{devices} devices in {folder}; the page: [bold]{page}[/]")
        first = bring(fleet, good, "a good release")
        assert first["state"] == "done", first
        for bundle, label in ((slow, "a release that is slower than it says"), (crashes, "a release that crashes")):
            ended = bring(fleet, bundle, label)
            assert ended["state"] == "halted", ended
            console.print(f"  {ended['reason']}", markup=False)
        kept = fleet.running()
        console.print()
        console.print(fleet.say("status"), markup=False)
        console.print(f"\n{kept[1]} of {devices} devices keep release 1; {time.monotonic() - started:.0f} s in all")
        assert kept == {1: devices}, kept
        if wait:
            console.input("Enter ends it: ")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fleet-demo", description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--wait", action="store_true", help="keep the page up at the end, until Enter")
    options = parser.parse_args()
    lacking = [why for why in (nginx.missing(), broker.missing()) if why]
    if lacking:
        console.print(f"make fleet-demo: {'; '.join(lacking)}")
        return 2
    with tempfile.TemporaryDirectory(prefix="edgeprune-fleet-", ignore_cleanup_errors=True) as folder:
        demo(Path(folder), options.devices, options.wait)
    return 0


if __name__ == "__main__":
    sys.exit(main())
