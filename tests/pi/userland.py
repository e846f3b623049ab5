"""An aarch64 userland to emulate a Raspberry Pi with: Debian's own packages, unpacked.

`python -m tests.pi.userland` makes it and says where it lies.

Rules:
- Made from Debian's archive by mmdebstrap, which checks its signatures with Debian's keyring. Nothing of it is run
  meanwhile ('extract': no maintainer script), so the users that those would make are written here.
- Kept under build/pi/, by the hash of what it is made from. It is made in NAME.part and renamed, under a lock: a part
  that is there while nobody holds the lock was left by one who was killed, and goes.
- qemu is Debian 13's (10.0): 12's (7.2) shows programs the host's /proc/cpuinfo, and ONNX Runtime then takes other
  kernels.

Sources: mmdebstrap(1); QEMU 10.0 linux-user/aarch64; passwd(5); shadow(5) ('*': no password fits, and unlike with '!'
sshd doesn't take the account for locked).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.conftest import ROOT

CACHE = ROOT / "build" / "pi"
#: What of Raspberry Pi OS Lite the device side needs: README, Devices.
PACKAGES = (
    "base-files", "bash", "ca-certificates", "coreutils", "dash", "findutils", "grep", "hostname", "libc-bin",
    "libstdc++6", "openssh-server", "openssh-sftp-server", "procps", "python3", "python3-venv", "sed", "tzdata",
    "util-linux",
)  # fmt: skip
#: Raspberry Pi OS is built on these.
SUITE, QEMU_SUITE = "bookworm", "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOOKS = "/usr/share/mmdebstrap/hooks/merged-usr"

_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\npi:x:1000:1000::/home/pi:/bin/bash\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": "root:x:0:\npi:x:1000:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:20000::::::\npi:*:20000::::::\n",
    "etc/hosts": "127.0.0.1 localhost raspberrypi\n",
}


class CannotBeMadeError(Exception):
    """Why there is no userland here, for a test to be left out with."""


def userland(suite: str = SUITE, cache: Path = CACHE) -> Path:
    """The folder with `root/` and `qemu-aarch64`, made if it isn't there.

    Raises:
        CannotBeMadeError: A tool is missing, or the archive can't be reached.
    """
    content = (suite, QEMU_SUITE, PACKAGES, sorted(_FILES.items()), Path(__file__).read_text())
    made = cache / f"{suite}-{hashlib.sha256(repr(content).encode()).hexdigest()[:12]}"
    if made.is_dir():
        return made
    if os.geteuid() != 0:
        raise CannotBeMadeError("only root can unpack a userland with its owners: sudo make test-pi")
    if not shutil.which("mmdebstrap") or not KEYRING.is_file():
        raise CannotBeMadeError("no mmdebstrap here (Debian: apt-get install mmdebstrap debian-archive-keyring)")
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache.glob("*.part"):
            shutil.rmtree(left)
        if not made.is_dir():
            part = made.with_suffix(".part")
            try:
                _make(part, suite)
                os.rename(part, made)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return made


def _make(part: Path, suite: str) -> None:
    part.mkdir()
    mmdebstrap(part, QEMU_SUITE, part / "qemu.tar", "--include=qemu-user")
    with tarfile.open(part / "qemu.tar") as packed:
        member = packed.extractfile("./usr/bin/qemu-aarch64")
        assert member is not None
        (part / "qemu-aarch64").write_bytes(member.read())
    (part / "qemu-aarch64").chmod(0o755)
    (part / "qemu.tar").unlink()
    root = part / "root"
    mmdebstrap(
        part, suite, root, "--architectures=arm64", f"--hook-dir={HOOKS}", f"--include={','.join(PACKAGES)}"
    )  # fmt: skip
    for name, text in _FILES.items():
        (root / name).write_text(text)
    (root / "etc/shadow").chmod(0o600)
    shutil.rmtree(root / "var/cache/apt", ignore_errors=True)


def mmdebstrap(work: Path, suite: str, target: Path, *options: str) -> None:
    """Unpack a suite's packages into a folder or tar. Raises CannotBeMadeError."""
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=extract", *options, suite, str(target)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | {"TMPDIR": temporary},
        )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()[-1:]
        raise CannotBeMadeError(f"Debian's packages can't be had: {'; '.join(said)}")


if __name__ == "__main__":
    sys.stdout.write(f"{userland(*sys.argv[1:])}\n")
