"""Installed without extras, cos-serve is a client. Whatever needs more says what to install."""

import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cos.search.extras import NotInstalled, needs

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Missing())
from {module} import main
sys.argv = ["command", *sys.argv[2:]]
main()
"""


@pytest.fixture
def server(solution: dict[str, Any]) -> Iterator[str]:
    """The address of a server with one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"event: answered\ndata: {json.dumps(solution)}\n\n".encode())

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def run(blocked: str, *arguments: str, module: str = "cos.clients.cli") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.replace("{module}", module)
    command = [sys.executable, "-c", program, blocked, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_what_needs_an_extra_is_missing_without_it(blocked: str) -> None:
    names = set(blocked.split(","))
    assert {"torch", "vllm", "fastapi", "transformers", "numpy", "scipy", "prometheus_client", "yaml"} <= names
    assert not {"httpx", "pydantic", "msgspec", "rich", "typer", "PIL"} & names


def test_a_server_can_be_asked(blocked: str, server: str, png_path: str, tmp_path: Path) -> None:
    drawn = tmp_path / "tree.svg"
    done = run(blocked, "solve", png_path, "What is the total?", "--url", server, "--picture", str(drawn))
    assert done.returncode == 0, done.stderr
    assert "Answer: 12" in done.stdout
    assert drawn.is_file()


def test_the_scripted_runtime_searches(blocked: str, png_path: str) -> None:
    done = run(blocked, "solve", png_path, "What is the total?", "--policy", "scripted")
    assert done.returncode == 0, done.stderr
    assert "Answer: " in done.stdout


def test_the_commands_are_listed(blocked: str) -> None:
    done = run(blocked, "--help")
    assert done.returncode == 0, done.stderr
    for command in ("solve", "eval", "bench", "train"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "module", "message"),
    [
        (["solve", "IMAGE", "?", "--policy", "cos-tiny"], "cos.clients.cli", "a search in this process needs"),
        (["eval", "ledger"], "cos.clients.cli", "cos eval needs"),
        (["bench", "quality"], "cos.clients.cli", "cos bench needs"),
        (["train", "check"], "cos.clients.cli", "cos train needs"),
        ([], "cos.server.cli", "cos-serve needs"),
    ],
)
def test_a_command_that_needs_more_says_what_to_install(
    arguments: list[str], module: str, message: str, blocked: str, png_path: str
) -> None:
    given = [png_path if argument == "IMAGE" else argument for argument in arguments]
    done = run(blocked, *given, module=module)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    extras = "gpu,train" if "train" in arguments else "gpu"
    assert "which is not installed: run `uv sync` in a checkout of cos-serve" in done.stderr
    assert f"pip install 'cos-serve[{extras}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_of_our_own_that_is_missing_is_no_package_to_install() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"cos\.nowhere"), needs("serve", "this"):
        importlib.import_module("cos.nowhere")
    told = pytest.raises(NotInstalled, match=r"this needs the package 'nowhere_at_all'.*; or do without")
    with told, needs("serve", "this", instead="or do without"):
        importlib.import_module("nowhere_at_all.part")
