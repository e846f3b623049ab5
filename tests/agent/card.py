"""The memory card of a whole emulated machine: Debian for aarch64 with systemd and edgeprune's device side on it.

Rules:
- Debian's own packages and Python's own wheels, unpacked; nothing of them is run here ('extract', `pip --target`), so
  what their scripts would do is written down: users, the network. The machine itself does the rest when it first
  starts, as a person would at it: the factory model, the agent's units, `systemctl enable`.
- What only a test wants beside the agent's units: polls by seconds (a drop-in), and a journal that is written to the
  serial console, which is what the host sees of the machine.
- No loop device: mkfs.ext4 fills the image itself. The initrd only loads the modules that a virtual disk needs.

Sources: mkfs.ext4(8), -d; Linux Documentation/driver-api/early-userspace/buffer-format.rst (newc); systemd.network(5);
kernel-command-line(7); journald.conf(5).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.conftest import ROOT
from tests.fleet.bundles import scene
from tests.pi.userland import HOOKS, SUITE, CannotBeMadeError, mmdebstrap

#: A machine that starts: systemd, its network and a kernel for virtual hardware. busybox is the initrd's.
PACKAGES = (
    "base-files", "bash", "busybox-static", "ca-certificates", "coreutils", "grep", "libc-bin", "libstdc++6",
    "linux-image-cloud-arm64", "mount", "python3", "sed", "systemd-sysv", "tzdata", "udev", "util-linux",
)  # fmt: skip
#: What the extra `agent` and the runtime need: pyproject.toml.
WHEELS = (
    "bsdiff4", "numpy", "onnxruntime", "pillow", "pydantic", "pyyaml", "securesystemslib[crypto]", "tuf", "urllib3",
)  # fmt: skip
PYTHON = (3, 11)  # of bookworm
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 31, 34, 36)))
#: A disk and a network that are virtual.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_net")
#: Bytes that the machine may write.
ROOM = 256 << 20
#: Where the agent's folder is, and its user.
FOLDER, USER = "/var/lib/edgeprune", "edgeprune"
_SITE = "usr/lib/python3/dist-packages"

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
for name in {modules}; do /bin/busybox insmod /$name.ko; done
/bin/busybox mount -t ext4 /dev/vda /root || exit
exec /bin/busybox switch_root /root /sbin/init
"""

_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\nsystemd-network:x:101:101::/:/usr/sbin/nologin\n"
        f"{USER}:x:1000:1000::{FOLDER}:/usr/sbin/nologin\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": f"root:x:0:\nsystemd-network:x:101:\n{USER}:x:1000:\nnogroup:x:65534:\n",
    "etc/shadow": f"root:*:20000::::::\n{USER}:*:20000::::::\n",
    "etc/hostname": "device\n",
    "etc/hosts": "127.0.0.1 localhost device\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/fstab": "",
    # QEMU's network for users: its host is .2; no DHCP, which is waited for
    "etc/systemd/network/lan.network": "[Match]\nName=e*\n[Network]\nAddress=10.0.2.15/24\nIPv6AcceptRA=no\n",
    "etc/systemd/journald.conf.d/console.conf": (
        "[Journal]\nForwardToConsole=yes\nTTYPath=/dev/ttyAMA0\nMaxLevelConsole=info\nStorage=volatile\n"
    ),
    "etc/systemd/system/edgeprune-agent.timer.d/often.conf": (
        "[Timer]\nOnBootSec=\nOnBootSec=1s\nOnUnitInactiveSec=2s\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
    ),
    "etc/systemd/system/application.service": (
        "[Unit]\nDescription=the test's application: the example that comes with the agent\n"
        "[Service]\n"
        f"ExecStart=/usr/bin/python3 -m edgeprune.agent.example {FOLDER} --images /srv/images --every 1 --score 0.9\n"
        f"User={USER}\nRestart=always\nSyslogIdentifier=application\n"
        "Environment=PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
    "etc/systemd/system/first-start.service": (
        "[Unit]\nDescription=the test's setting up\nConditionPathExists=/srv/bundle\n"
        "[Service]\nType=oneshot\nExecStart=/bin/bash -ex /srv/first-start.sh\nSyslogIdentifier=first-start\n"
    ),
    "srv/first-start.sh": (
        f"setpriv --reuid={USER} --regid={USER} --clear-groups python3 -m edgeprune.agent factory /srv/bundle\n"
        "python3 -m edgeprune.agent install-units --every 2s --jitter 1s\n"
        "rm -r /srv/bundle\nsystemctl daemon-reload\n"
        "systemctl enable --now application.service edgeprune-agent.timer\nsync\necho set up\n"
    ),
}  # fmt: skip
_ENABLED = {
    "multi-user.target.wants": ("systemd-networkd.service",),
    "network-online.target.wants": ("systemd-networkd-wait-online.service",),
}


@dataclass(frozen=True)
class Card:
    """What a machine starts from."""

    kernel: Path
    initrd: Path
    image: Path


def make(folder: Path, config: bytes, root_json: bytes, bundle: Path) -> Card:
    """A card with an agent that isn't set up yet; some 900 MB in a folder that is there.

    Args:
        config: agent.yaml.
        root_json: The root of trust, /etc/edgeprune/root.json.
        bundle: The factory model.

    Raises:
        CannotBeMadeError: A tool is missing, or packages can't be had.
    """
    unpack(folder)
    root = folder / "root"
    furnish(root, {"agent.yaml": config, "root.json": root_json}, bundle)
    card = Card(folder / "kernel", folder / "initrd", folder / "card.img")
    shutil.copy(next(root.glob("boot/vmlinuz-*")), card.kernel)
    card.initrd.write_bytes(initrd(root))
    shutil.rmtree(root / "boot")
    shutil.rmtree(root / "usr/lib/modules")
    used = sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))
    with open(card.image, "wb") as image:
        image.truncate(used + used // 4 + ROOM)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(card.image)], check=True)
    shutil.rmtree(root)
    return card


def unpack(folder: Path) -> None:
    """Debian, and the wheels, into FOLDER/root."""
    for tool in ("mmdebstrap", "mkfs.ext4", "e2fsck", "debugfs"):
        if not shutil.which(tool):
            raise CannotBeMadeError(f"no {tool} here (Debian: apt-get install mmdebstrap e2fsprogs)")
    if os.geteuid() != 0:
        raise CannotBeMadeError("only root can unpack a machine with its owners")
    root = folder / "root"
    mmdebstrap(
        folder, SUITE, root, "--architectures=arm64", f"--hook-dir={HOOKS}", f"--include={','.join(PACKAGES)}"
    )  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
            "--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON[0]}.{PYTHON[1]}",
            *(f"--platform={one}" for one in PLATFORMS), f"--target={root / _SITE}",
            f"--constraint={ROOT / 'constraints.txt'}", *WHEELS,
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise CannotBeMadeError(f"wheels for aarch64 can't be had: {done.stderr.strip().splitlines()[-1]}")


def furnish(root: Path, etc: dict[str, bytes], bundle: Path) -> None:
    """edgeprune, its configuration, and what makes a system of packages."""
    for name, text in _FILES.items():
        write(root / name, text.encode())
    for name, content in etc.items():
        write(root / "etc/edgeprune" / name, content)
    (root / "etc/shadow").chmod(0o600)
    shutil.rmtree(root / "var/run", ignore_errors=True)
    (root / "var/run").symlink_to("/run")
    units = root / "etc/systemd/system"
    wanted = {"multi-user.target.wants": ("first-start.service",)}
    for target in _ENABLED:
        (units / target).mkdir(exist_ok=True)
        for unit in (*_ENABLED[target], *wanted.get(target, ())):
            own = (units / unit).is_file()
            (units / target / unit).symlink_to(f"{'/etc' if own else '/usr/lib'}/systemd/system/{unit}")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "edgeprune", root / _SITE / "edgeprune", ignore=ignored)
    shutil.copytree(bundle, root / "srv/bundle")
    (root / "srv/images").mkdir()
    Image.fromarray(scene()).save(root / "srv/images/scene.png")
    home = root / FOLDER.lstrip("/")
    home.mkdir(parents=True)
    os.chown(home, 1000, 1000)
    if sys.version_info[:2] == PYTHON:  # byte code is a version's own; an emulator takes minutes to make it
        for place in (_SITE, f"usr/lib/python{PYTHON[0]}.{PYTHON[1]}"):
            compiled = [sys.executable, "-m", "compileall", "-q", "-s", str(root), str(root / place)]
            subprocess.run([*compiled, "--invalidation-mode", "unchecked-hash"], capture_output=True)


def runtime() -> str:
    """Library and version that the machine has."""
    found = re.search(r"^onnxruntime==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return f"onnxruntime {found[1]}"


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def initrd(root: Path) -> bytes:
    """A first root that finds the disk and goes on there."""
    modules = _modules({path.stem: path for path in root.glob("usr/lib/modules/*/kernel/**/*.ko")})
    files = [
        ("init", 0o100755, _INIT.format(modules=" ".join(modules)).encode()),
        ("bin/busybox", 0o100755, (root / "bin/busybox").read_bytes()),
        *((f"{name}.ko", 0o100644, content) for name, content in modules.items()),
    ]
    folders = [(name, 0o040755, b"") for name in ("bin", "dev", "root")]
    archive = b"".join(_entry(*one) for one in [*folders, *files, ("TRAILER!!!", 0, b"")])
    return archive + bytes(-len(archive) % 512)


def _modules(there: dict[str, Path]) -> dict[str, bytes]:
    """Name -> content of what is needed, in the order that it can be loaded in: a module says what it depends on."""
    chosen: dict[str, bytes] = {}

    def choose(name: str) -> None:
        content = there[name].read_bytes()
        depends = re.search(rb"\0depends=([\w,]*)\0", content)
        for other in filter(None, depends[1].decode().split(",") if depends else ()):
            choose(other)
        chosen.setdefault(name, content)

    for name in MODULES:
        choose(name)
    return chosen


def _entry(name: str, mode: int, content: bytes) -> bytes:
    """A file of a cpio archive: thirteen numbers of eight hexadecimal digits, its name, itself; each filled to four."""
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + path
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
