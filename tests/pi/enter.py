"""Starts a program of the userland as on a Raspberry Pi: `python enter.py '{"root", "qemu", …}' PROGRAM …`.

Rules:
- Own namespaces for users, mounts, processes and the host's name; the network is the host's. Root and every user are
  mapped to themselves, so that sshd can separate its privileges.
- binfmt_misc of the own user namespace hands aarch64 programs to qemu, children too; the host is not changed.
- Everything that is written outside of the home folder lands in memory, over the userland, and goes with the program.
- It dies with who started this.
- /sys says what a board's does, as far as libraries look: device tree, cores in one cluster, main ID register.

Needs root, Linux 6.7 (binfmt_misc for each user namespace) and overlayfs. Standard library only.

Sources: user_namespaces(7), pid_namespaces(7) (the end of its first process ends all); Linux admin-guide/binfmt-misc
(F: the interpreter is opened now, so that it is found in another root; P: it is told argv[0]); elf(5) for the magic
(64 bit, little endian, EM_AARCH64 = 183); Linux Documentation/ABI/testing/sysfs-devices-system-cpu.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

_NEWNS, _NEWUTS, _NEWUSER, _NEWPID = 0x20000, 0x04000000, 0x10000000, 0x20000000
_PDEATHSIG = 1
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    settings = json.loads(sys.argv[1])
    _libc.prctl(_PDEATHSIG, signal.SIGKILL)
    separate()
    first = os.fork()
    if first:  # the namespace's first process is the child
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
    _libc.prctl(_PDEATHSIG, signal.SIGKILL)
    furnish(settings)
    os.chroot(settings["root"])
    os.chdir("/")
    os.environ["QEMU_CPU"] = settings["cpu"]
    os.execv(sys.argv[2], sys.argv[2:])


def separate() -> None:
    """Leave the host's namespaces. Who maps users has to stay outside: a child that was started before."""
    ready, tell = os.pipe()
    inside = os.getpid()
    mapper = os.fork()
    if not mapper:
        os.close(tell)
        code = 1
        if os.read(ready, 1):
            for kind in ("uid_map", "gid_map"):
                Path(f"/proc/{inside}/{kind}").write_text("0 0 65536\n")
            code = 0
        os._exit(code)
    os.close(ready)
    if _libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWUTS):
        raise SystemExit(f"namespaces can't be had: {os.strerror(ctypes.get_errno())}")
    os.write(tell, b"x")
    os.close(tell)
    if os.waitpid(mapper, 0)[1]:
        raise SystemExit("users can't be mapped")


def furnish(settings: dict) -> None:  # type: ignore[type-arg]
    """Mount what a running system has."""
    root, memory = Path(settings["root"]), Path(settings["memory"])
    mount("--make-rprivate", "/")
    mount("-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc")
    rule = f":pi:M::{_MAGIC}:{_MASK}:{settings['qemu']}:FP"
    Path("/proc/sys/fs/binfmt_misc/register").write_bytes(rule.encode())
    mount("-t", "tmpfs", "-o", "mode=755", "pi", str(memory))
    upper, work = memory / "upper", memory / "work"
    upper.mkdir()
    work.mkdir()
    mount("-t", "overlay", "-o", f"lowerdir={root},upperdir={upper},workdir={work}", "pi", str(root))
    mount("-t", "tmpfs", "-o", "mode=755", "sysfs", f"{root}/sys")
    board(root / "sys", settings)
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("--rbind", "/dev", f"{root}/dev")
    (root / "tmp").chmod(0o1777)
    for folder in ("run/sshd", "home/pi"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    mount("--bind", settings["home"], f"{root}/home/pi")
    for path in map(Path, settings["shared"]):
        there = root / path.relative_to("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            there.mkdir(exist_ok=True)
        else:
            there.touch()
        mount("--bind", str(path.resolve()), str(there))
    for name, text in settings["files"].items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o600 if name.endswith("_key") else 0o644)
    subprocess.run(["hostname", "raspberrypi"], check=True)


def board(sys_folder: Path, settings: dict) -> None:  # type: ignore[type-arg]
    """A board's /sys: no more cores than the host has, or ONNX Runtime can't bind its threads."""
    tree, system = sys_folder / "firmware/devicetree/base", sys_folder / "devices/system/cpu"
    tree.mkdir(parents=True)
    (tree / "model").write_text(f"{settings['model']}\0")
    (tree / "compatible").write_text("".join(f"{name}\0" for name in settings["compatible"]))
    cores = min(4, os.cpu_count() or 1)
    everyone = {"_list": f"0-{cores - 1}", "": f"{(1 << cores) - 1:x}"}
    system.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (system / name).write_text(f"{everyone['_list']}\n")
    for core in range(cores):
        topology, identity = system / f"cpu{core}/topology", system / f"cpu{core}/regs/identification"
        topology.mkdir(parents=True)
        identity.mkdir(parents=True)
        (identity / "midr_el1").write_text(f"0x00000000{settings['midr']}\n")
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text(f"{core}\n")
        own = {"_list": str(core), "": f"{1 << core:x}"}
        for ending in ("_list", ""):
            for name in ("core_siblings", "package_cpus"):
                (topology / f"{name}{ending}").write_text(f"{everyone[ending]}\n")
            for name in ("thread_siblings", "core_cpus"):
                (topology / f"{name}{ending}").write_text(f"{own[ending]}\n")


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"can't be mounted here: {' '.join(arguments[-3:])}: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
