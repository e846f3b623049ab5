"""A board with TensorRT, simulated: an interpreter that sees a `tensorrt` of its own and a CUDA runtime.

Its TensorRT is sim_tensorrt.py, and says so in its version ('10.3.0+simulated'), so that no record of it passes for a
board's. What it can show, and what it can't, stands there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

SIM = ROOT / "tests" / "sim"
#: What a board's own package is to the tests: settings are read anew by every process.
_MODULE = """import json, os
from pathlib import Path

__version__ = "{version}+simulated"
os.environ.update(json.loads(Path(__file__).with_name("settings.json").read_text()))
os.environ["SIM_TENSORRT"] = "{version}"
from sim_tensorrt import *
"""


def cuda(folder: Path) -> Path:
    """Build the simulated CUDA runtime and driver into a folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("left out: no C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libcudart.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SIM / "cudart.c"], check=True)
    shutil.copyfile(library, folder / "libcuda.so.1")
    return library


class SimulatedTensorRt:
    """The board's TensorRT.

    Attributes:
        folder: Its place on the module path.
        libraries: Where CUDA's lie.
    """

    def __init__(self, folder: Path, version: str = "10.3.0") -> None:
        self.folder, self.libraries = folder, folder / "lib"
        cuda(self.libraries)
        self.upgrade(version)
        self.set()

    def upgrade(self, version: str) -> None:
        """Another JetPack."""
        shutil.rmtree(self.folder / "tensorrt", ignore_errors=True)
        (self.folder / "tensorrt").mkdir(parents=True)
        (self.folder / "tensorrt/__init__.py").write_text(_MODULE.format(version=version))
        self.set()

    def set(self, **settings: str) -> None:
        """What the simulation does: sim_tensorrt.py's SIM_…; what isn't named is as it comes."""
        (self.folder / "tensorrt/settings.json").write_text(json.dumps(settings))

    def interpreter(self, python: Path) -> None:
        """Write a `python` that sees it, this checkout, and the packages that the tests run with."""
        environment = self.folder / "environment"
        venv.create(environment, with_pip=False, symlinks=True)
        (site,) = environment.glob("lib/python*/site-packages")
        paths = (self.folder, ROOT, SIM, sysconfig.get_paths()["purelib"])
        (site / "board.pth").write_text("".join(f"{path}\n" for path in paths))
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(
            f'#!/bin/sh\nexport LD_LIBRARY_PATH={self.libraries}\nexec {environment}/bin/python -W ignore "$@"\n'
        )
        python.chmod(0o755)

    def system(self, folder: Path, version: str = f"{sys.version_info[0]}.{sys.version_info[1]}") -> Path:
        """A Python installation whose system packages have it, as JetPack's has; returns its interpreter."""
        base = Path(sys.base_prefix) / "lib" / f"python{version}"
        library = folder / "lib" / base.name
        library.mkdir(parents=True)
        (folder / "bin").mkdir()
        for entry in base.iterdir():
            if entry.name != "site-packages":
                (library / entry.name).symlink_to(entry)
        shutil.copyfile(Path(getattr(sys, "_base_executable", sys.executable)).resolve(), folder / "bin/python3")
        (folder / "bin/python3").chmod(0o755)
        for packages in (library / "site-packages", folder / "lib/python3/dist-packages"):  # Debian's: the latter
            packages.mkdir(parents=True, exist_ok=True)
            (packages / "jetpack.pth").write_text(f"{self.folder}\n{SIM}\n")
        return folder / "bin/python3"
