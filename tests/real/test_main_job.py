"""The main job on the real engines, over HTTP, as a newcomer meets it."""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from cos.checkpoints import example, heldout
from tests.real.server_process import ROOT, ServerProcess, fenced_blocks

pytestmark = pytest.mark.real

TOTAL = "What is the total of all rows?"


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def body_of_the_example() -> dict[str, Any]:
    task = example()
    return {"image": data_uri(task.image_path.read_bytes()), "question": task.question, "seed": 0}


def engines_running(server: ServerProcess) -> float:
    """Requests under way in both engines, by vLLM's own gauges."""
    metrics = httpx.get(f"{server.url}/metrics").text
    found = re.findall(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} ([\d.e+]+)$", metrics, re.MULTILINE)
    assert len(found) == 4, "running and waiting, of policy and PRM"
    return sum(map(float, found))


def shell(command: str, server: ServerProcess) -> str:
    """Runs a documented command against the server under test."""
    command = command.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    command = re.sub("^uv run --no-sync ", f"{Path(sys.executable).parent}/", command)
    return subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_server_solves_its_example_and_says_that_it_is_ready(server: ServerProcess) -> None:
    output = "\n".join(server.lines)
    assert re.search(rf"answer +[\d.]+ +{re.escape(example().answer)}\b", output), output
    told = [line for line in server.lines if "cos.server.access" not in line]
    assert told[-1].startswith(f"cos-serve is ready: {server.url}"), "lines of requests alone come after it"


def test_the_bundled_example_is_answered_rightly(server: ServerProcess) -> None:
    body = {**body_of_the_example(), "return_tree": True}
    reply = httpx.post(f"{server.url}/solve", json=body, timeout=60).json()
    assert reply["answer"] == example().answer
    timings = reply["timings"]
    assert sum(timings["stages"].values()) == pytest.approx(timings["total_s"], rel=0.02)
    assert reply["complete"] is True
    assert all(0 <= step["score"] <= 1 for step in reply["steps"])
    assert {step["fields"]["name"] for step in reply["steps"]} >= {"Read row 1"}
    uses = ("kept", "duplicate", "asked", "aborted", "discarded")
    assert sum(reply["usage"][f"tokens_{use}"] for use in uses) == reply["usage"]["tokens_generated"]
    assert sum(node["kept"] for node in reply["tree"]) == len(reply["steps"]) + 1


def test_both_engines_series_are_told_apart_in_both_formats(server: ServerProcess) -> None:
    httpx.post(f"{server.url}/solve", json={**body_of_the_example(), "strategy": "beam"}, timeout=60)
    for accept, parse in (("text/plain", plain_text), ("application/openmetrics-text;version=1.0.0", open_metrics)):
        families = list(parse(httpx.get(f"{server.url}/metrics", headers={"Accept": accept}).text))
        samples = [sample for family in families for sample in family.samples]
        for name in ("vllm:num_requests_running", "vllm:e2e_request_latency_seconds_count"):
            assert {sample.labels["cos_engine"] for sample in samples if sample.name == name} == {"policy", "prm"}
        prompts = [sample for sample in samples if sample.name == "cos_prompt_tokens_total"]
        assert {tuple(sorted(sample.labels.values())) for sample in prompts if sample.value > 0} >= {
            ("computed", "policy"),
            ("computed", "prm"),
        }
        assert len({family.name for family in families}) == len(families), "no family stands twice"


COMMANDS = (*fenced_blocks(ROOT / "README.md", "sh")[2:], *fenced_blocks(ROOT / "docs" / "quickstart.md", "sh"))
SNIPPETS = (
    *fenced_blocks(ROOT / "docs" / "quickstart.md", "python"),
    *fenced_blocks(ROOT / "docs" / "clients.md", "python")[:3],
)


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_a_command_of_readme_or_quick_start_works(server: ServerProcess, command: str) -> None:
    assert shell(command.strip(), server).strip()


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_python_of_a_page_works(server: ServerProcess, snippet: str) -> None:
    snippet = snippet.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=ROOT, check=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.split()[-1].isdigit()


def test_one_seed_gives_one_answer_and_one_tree(server: ServerProcess) -> None:
    problem = heldout()[5]
    body = {"image": data_uri(problem.image_png), "question": problem.question, "strategy": "beam", "n": 8, "seed": 3}
    first, second = (
        httpx.post(f"{server.url}/solve", json={**body, "return_tree": True}, timeout=60).json() for _ in range(2)
    )
    assert [node["path"] for node in first["tree"]] == [node["path"] for node in second["tree"]]
    assert first["steps"] == second["steps"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_leaves_both_engines_idle_within_three_seconds(
    server: ServerProcess, stream: bool
) -> None:
    problem = heldout()[1]
    # best_of_n never ends early: it lasts long enough to be seen under way.
    body = {"question": problem.question, "strategy": "best_of_n", "n": 64, "stream": stream}
    body["image"] = data_uri(problem.image_png)
    with asking(server, body):
        assert within(20, lambda: engines_running(server) > 0), "the search must be under way for this to mean anything"
    assert within(3, lambda: engines_running(server) == 0)
    time.sleep(0.5)
    assert engines_running(server) == 0, "nothing may be started after the client has gone"


@contextmanager
def asking(server: ServerProcess, body: Mapping[str, object]) -> Generator[None]:
    """Asks, and closes the connection at the end without having read the answer."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        content = json.dumps(dict(body)).encode()
        head = "POST /solve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        yield


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold in time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_bad_requests_harm_nobody_else(server: ServerProcess) -> None:
    problem = heldout()[2]
    good = {"image": data_uri(problem.image_png), "question": problem.question, "seed": 0}
    bad = [
        {**good, "strategy": "bem"},
        {**good, "n": 0},
        {**good, "n": 10**9},
        {**good, "question": " "},
        {"question": "no image"},
        {**good, "image": "data:image/png;base64,aGVsbG8="},
        {**good, "image": "http://127.0.0.1/picture.png"},
        {**good, "temprature": 1},
    ]
    stop = threading.Event()
    answers: list[str] = []

    def keep_asking() -> None:
        while not stop.is_set():
            answers.append(httpx.post(f"{server.url}/solve", json=good, timeout=60).json()["answer"])

    with ThreadPoolExecutor() as pool:
        asking = pool.submit(keep_asking)
        for body in bad:
            response = httpx.post(f"{server.url}/solve", json=body, timeout=60)
            assert 400 <= response.status_code < 500, body
            assert response.json()["error"]["message"]
        stop.set()
        asking.result()
    assert len(set(answers)) == 1


def test_question_text_that_spells_control_tokens_is_answered_like_any_other(server: ServerProcess) -> None:
    problem = heldout()[2]
    question = f"{problem.question} <|im_end|> ки <IMG_CONTEXT> <|answer_end|>"
    reply = httpx.post(
        f"{server.url}/solve", json={"image": data_uri(problem.image_png), "question": question}, timeout=60
    )
    assert reply.status_code == 200, reply.text


def test_it_is_ready_as_soon_and_as_small_as_the_readme_says(server: ServerProcess) -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    minutes = re.search(r"is ready within (\d+) minutes", readme)
    gib = re.search(r"together hold less than (\d+) GiB", readme)
    assert minutes is not None
    assert gib is not None
    assert server.ready_after_s is not None
    assert server.ready_after_s < 60 * int(minutes[1])
    parent = psutil.Process(server.process.pid)
    resident = sum(process.memory_info().rss for process in [parent, *parent.children(recursive=True)])
    assert resident < int(gib[1]) * 2**30, f"{resident / 2**30:.1f} GiB"
