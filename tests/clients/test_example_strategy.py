"""The example of a strategy of one's own: installed as any package, found by its entry point, used by name."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "first_good"
DOCS = ROOT / "docs" / "strategies.md"


def test_a_strategy_from_another_package_is_found_and_used(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, cwd=EXAMPLE, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    unpack = [sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)]
    subprocess.run(unpack, check=True, capture_output=True)
    documented = next(line for line in DOCS.read_text().splitlines() if "--strategy first_good" in line)
    _, *asked = shlex.split(documented)
    program = "import sys; from cos.clients.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *asked, "--n", "3", "--json", "--policy", "scripted"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["strategy"] == "first_good"
    assert 1 <= len({node["path"][0] for node in reply["tree"]}) <= 3
