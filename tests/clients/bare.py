"""An environment in which cos-serve is installed without extras."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

Ran = subprocess.CompletedProcess[str]

HIDDEN = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked = set("%s".split(","))
sys.meta_path.insert(0, Missing())
"""


class Bare:
    """An environment with cos-serve without extras, and packages of a test's own."""

    def __init__(self, site: Path, blocked: str) -> None:
        self._site = site
        site.mkdir()
        (site / "sitecustomize.py").write_text(HIDDEN % blocked, encoding="utf-8")

    def install(self, folder: Path) -> None:
        """Builds and installs the package in a folder."""
        wheels = self._site / "wheels"
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
        subprocess.run(build, cwd=folder, check=True, capture_output=True)
        for wheel in wheels.glob("*.whl"):
            unpack = [sys.executable, "-m", "zipfile", "-e", str(wheel), str(self._site)]
            subprocess.run(unpack, check=True, capture_output=True)

    def python(self, *arguments: str, cwd: Path = ROOT) -> Ran:
        """Runs Python there."""
        path = os.pathsep.join([str(self._site), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, *arguments]
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)

    def cos(self, *arguments: str, cwd: Path = ROOT) -> Ran:
        """Runs the ``cos`` command there."""
        program = "import sys; from cos.clients.cli import main; main(sys.argv[1:])"
        return self.python("-P", "-c", program, *arguments, cwd=cwd)
