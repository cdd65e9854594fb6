"""What the images hold and how they run, as far as the Dockerfile says it. `bare_root.sh` builds and runs them."""

import json
import re
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile: its word and the rest."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    split = [line.partition(" ") for line in lines if line]
    return [(word, rest.strip()) for word, _, rest in split]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, those of the stages that it is made from before its own."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            base, name = rest.split(" AS ")
            found[name] = list(found.get(base, []))
        elif name:
            found[name].append((word, rest))
    return found


def values(stage: str, word: str) -> list[str]:
    return [rest for found, rest in stages()[stage] if found == word]


def health_command() -> list[str]:
    """The health check's program and arguments."""
    (check,) = values("cpu", "HEALTHCHECK")
    return json.loads(check[check.index("[") :])


@contextmanager
def answering(status: int) -> Generator[str]:
    """The port of a server that says this status, to /ready alone."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()


def is_healthy(port: str) -> bool:
    _, *arguments = health_command()
    done = subprocess.run([sys.executable, *arguments], env={"COS_PORT": port}, capture_output=True, check=False)
    return done.returncode == 0


def test_a_linter_finds_no_fault_with_the_dockerfile() -> None:
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([str(linter), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_cpu_is_the_image_that_is_built_when_no_target_is_named() -> None:
    assert list(stages())[-1] == "cpu"


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_an_image_runs_as_a_user_without_rights_whose_number_never_changes(image: str) -> None:
    assert values(image, "USER") == ["10001:10001"]
    assert stages()[image][-1][0] == "USER"


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_an_image_takes_packages_from_the_lock_file_alone(image: str) -> None:
    (copied,) = values(image, "COPY")
    source = re.match(r"--from=(\S+) /opt/cos /opt/cos$", copied)
    assert source is not None
    installing = " ".join(values(source[1], "RUN"))
    assert "uv sync --locked --no-dev" in installing
    assert "pip install" not in " ".join(values(image, "RUN")).replace("uv pip install", "")
    own = [run for run in values(image, "RUN") if "uv pip install" in run]
    assert len(own) == 1
    assert "--no-deps" in own[0]
    assert own[0].endswith("/wheel/*.whl")


def test_only_the_image_for_gpus_has_a_compiler() -> None:
    compilers = re.compile(r"\b(gcc|g\+\+|clang|build-essential|ninja-build)\b")
    assert not compilers.search(" ".join(values("cpu", "RUN")))
    assert compilers.findall(" ".join(values("cuda", "RUN"))) == ["gcc"]


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_models_and_traces_are_volumes_that_the_user_owns(image: str) -> None:
    assert [json.loads(volume) for volume in values(image, "VOLUME")] == [["/models", "/traces"]]
    assert any("--owner=cos" in run and "/models /traces" in run for run in values(image, "RUN"))
    assert any("HF_HOME=/models " in f"{env} " for env in values(image, "ENV"))


def test_the_health_check_asks_whether_the_server_is_ready() -> None:
    with answering(200) as port:
        assert is_healthy(port)
    assert not is_healthy(port)
    with answering(503) as port:
        assert not is_healthy(port)


def test_an_image_stops_by_the_signal_that_drains_the_server() -> None:
    assert values("cpu", "STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(values("cpu", "ENTRYPOINT")[0]) == ["cos-serve"]


def test_what_tests_and_docs_are_made_of_stays_out_and_what_the_package_holds_goes_in() -> None:
    kept_out = {
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    }
    assert {"tests", "docs", "deploy", ".*"} <= kept_out
    packages = {link.name for link in (ROOT / "src" / "cos").iterdir() if link.is_symlink()}
    needed = packages | {"src", "pyproject.toml", "uv.lock", "README.md", "LICENSE"}
    assert not needed & kept_out
