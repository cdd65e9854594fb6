"""The shape of the project: who may import whom, what the package holds, and what stays light."""

import ast
import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LINKS = ROOT / "src" / "cos"

MAY_IMPORT = {
    "search": set[str](),
    "checkpoints": set[str](),
    "prm": {"search"},
    "engines": {"search"},
    "wire": {"search"},
    "server": {"search", "prm", "engines", "checkpoints", "wire"},
    "clients": {"search", "prm", "engines", "checkpoints", "wire", "server", "evaluation", "training", "benchmarks"},
    "evaluation": {"search", "prm", "engines", "checkpoints", "wire"},
    "ledger": {"search", "engines", "training"},
    "training": {"search", "prm", "engines", "checkpoints", "evaluation", "wire"},
    "benchmarks": {"search", "prm", "engines", "checkpoints", "evaluation", "ledger", "training", "wire"},
}
PACKAGES = sorted(MAY_IMPORT)
HEAVY = (
    "sympy",
    "math_verify",
    "pebble",
    "torch",
    "vllm",
    "fastapi",
    "transformers",
    "numpy",
    "httpx",
    "prometheus_client",
)
HTTP_CLIENTS = {"requests", "httpx", "httpx2", "aiohttp", "urllib3", "urllib.request", "http.client", "openai"}
MAY_SPEAK_HTTP = {"clients", "benchmarks"}
ALSO_SPEAK_HTTP = {ROOT / "training" / "labels" / "llm_judge.py", *(ROOT / "engines").glob("remote*.py")}
"""What asks a judge, and the runtime on another server."""
MOST_LINES = 400


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it, as far as it is named: ``from a.b import c`` gives a.b and a.b.c."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_link_under_src_leads_to_the_folder_of_its_name_at_the_root() -> None:
    links = {path.name: path.resolve() for path in LINKS.iterdir() if path.is_symlink()}
    assert links == {name: (ROOT / name).resolve() for name in PACKAGES}
    assert all((folder / "__init__.py").is_file() for folder in links.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_built_checked_and_importable_by_its_full_name_only(package: str) -> None:
    tool = pyproject()["tool"]
    targets = tool["hatch"]["build"]["targets"]
    assert package in targets["wheel"]["only-include"]
    assert targets["wheel"]["sources"][package] == f"cos/{package}"
    assert package in targets["sdist"]["only-include"]
    assert {package, f"src/cos/{package}", "src/cos", "src"} & set(tool["pyright"]["include"])
    banned = tool["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert banned[package]["msg"] == f"import cos.{package}"


def test_no_module_is_longer_than_one_can_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in modules(*PACKAGES, "tests", "examples", "deploy")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for path in modules(package):
        allowed = MAY_IMPORT[package] | {package}
        others = {name.split(".")[1] for name in imported(path) if name.startswith("cos.")} & set(PACKAGES)
        assert others <= allowed, path


def test_generic_training_knows_the_ledger_task_by_its_name_in_one_menu_alone() -> None:
    naming = [path.name for path in modules("training", "evaluation") if "cos.ledger" in path.read_text("utf-8")]
    assert naming == ["menu.py"]


def test_the_clients_load_what_searches_or_trains_only_when_a_command_asks_for_it() -> None:
    for path in set(modules("clients")) - {ROOT / "clients" / "in_process.py"}:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in at_once]
        rooms = {name.split(".")[1] for name in names if name.startswith("cos.")}
        assert rooms <= {"search", "wire", "clients"}, path


def test_only_the_runtime_of_vllm_imports_vllm() -> None:
    found = {str(path.relative_to(ROOT)) for path in modules(*PACKAGES) if "vllm" in tops(path)}
    assert found == {
        "engines/vllm.py",
        "engines/vllm_adapter.py",
        "engines/vllm_start.py",
        "engines/vllm_process.py",
        "engines/vllm_plugin.py",
        "engines/vllm_value_head.py",
    }


@pytest.mark.parametrize("package", sorted(set(PACKAGES) - MAY_SPEAK_HTTP))
def test_nothing_but_clients_benchmarks_the_judge_and_remote_runtimes_can_fetch_from_the_network(package: str) -> None:
    for path in set(modules(package)) - ALSO_SPEAK_HTTP:
        assert not {name for name in imported(path) if name in HTTP_CLIENTS or name.split(".")[0] in HTTP_CLIENTS}, path


@pytest.mark.parametrize(
    "module",
    ["cos.search.run", "cos.prm.matching", "cos.engines.scripted", "cos.engines.launch", "cos.wire.job", "cos.clients"],
)
def test_the_core_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    if importlib.util.find_spec("hatchling") is not None:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    else:
        uv = shutil.which("uv")
        assert uv is not None, "building the wheel takes hatchling (development group) or uv"
        command = [uv, "build", "--wheel", "--quiet", "--out-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_every_module_of_every_package(wheel: zipfile.ZipFile) -> None:
    expected = {f"cos/{path.relative_to(ROOT)}" for path in modules(*PACKAGES)} | {"cos/__init__.py"}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == expected


def test_the_wheel_holds_what_the_modules_read(wheel: zipfile.ZipFile) -> None:
    data = {"cos/py.typed", "cos/checkpoints/heldout.zip"}
    data |= {"cos/checkpoints/example.png", "cos/checkpoints/example.json"}
    data |= {f"cos/{path.relative_to(ROOT)}" for path in (ROOT / "server" / "static").iterdir()}
    data |= {f"cos/{path.relative_to(ROOT)}" for path in (ROOT / "training").rglob("*.yaml")}
    assert data <= set(wheel.namelist())


def test_the_wheel_holds_nothing_but_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"cos", wheel_info(wheel)}


def wheel_info(wheel: zipfile.ZipFile) -> str:
    return next(name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
