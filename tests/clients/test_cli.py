"""``cos`` as it is typed."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from cos.clients import Solution, find
from cos.clients.async_client import AsyncClient
from cos.clients.cli import main
from cos.clients.model_servers import ModelServers

LOCAL = ["--policy", "scripted"]
TEXT = {"type": "text", "text": "How many rows?"}


def run(*arguments: str) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, solution: dict[str, Any]) -> list[dict[str, Any]]:
    """A server at every address; the bodies it has been sent."""
    bodies: list[dict[str, Any]] = []

    def server(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200)
        bodies.append(json.loads(request.content))
        return httpx.Response(200, text=f"event: answered\ndata: {json.dumps(solution)}\n\n")

    def connect(url: str, *, api_key: str | None = None) -> AsyncClient:
        return AsyncClient(url, api_key=api_key, transport=httpx.MockTransport(server))

    monkeypatch.setattr(find, "AsyncClient", connect)
    monkeypatch.delenv("COS_URL", raising=False)
    return bodies


def test_a_question_is_solved_in_this_process(png_path: str, capsys: pytest.CaptureFixture[str]):
    assert run("solve", png_path, "What is the total?", *LOCAL, "--strategy", "beam", "--n", "4") == 0
    text = capsys.readouterr().out
    assert "Winning chain" in text
    assert "Answer: " in text
    assert "└── " in text


def test_a_search_is_drawn_as_a_picture(png_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    drawn = tmp_path / "tree.svg"
    assert run("solve", png_path, "What is <b>the</b> total?", *LOCAL, "--picture", str(drawn)) == 0
    assert "Winning chain" in capsys.readouterr().out
    image = ElementTree.parse(drawn).getroot()
    assert image.tag.endswith("svg")
    assert "url(http" not in drawn.read_text(encoding="utf-8"), "it loads nothing"
    assert any("Winning" in (text or "") for text in image.itertext())


def test_the_picture_of_a_search_shows_the_question_s_picture_where_no_text_is(png_path: str, tmp_path: Path):
    drawn = tmp_path / "tree.svg"
    assert run("solve", png_path, "What is the total?", *LOCAL, "--picture", str(drawn)) == 0
    root = ElementTree.parse(drawn).getroot()
    (shown,) = root.iter("{http://www.w3.org/2000/svg}image")
    assert shown.attrib["href"].startswith("data:image/png;base64,")
    left, bottom = float(shown.attrib["x"]), float(shown.attrib["y"]) + float(shown.attrib["height"])
    (frame,) = (group for group in root.iter("{http://www.w3.org/2000/svg}g") if group.attrib.get("clip-path"))
    dx, dy = map(float, re.findall(r"[\d.]+", frame.attrib["transform"]))
    words = [text.attrib for text in frame.iter("{http://www.w3.org/2000/svg}text") if (text.text or "").strip()]
    level = [at for at in words if float(at["y"]) + dy < bottom]
    assert len(level) > 3
    assert all(float(at["x"]) + float(at["textLength"]) + dx < left for at in level)


def test_a_picture_in_no_folder_is_refused_before_any_search(
    png_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run("solve", png_path, "?", *LOCAL, "--picture", str(tmp_path / "no" / "tree.svg")) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_json_is_the_reply_and_nothing_else(png_path: str, capsys: pytest.CaptureFixture[str]):
    found: list[dict[str, Any]] = []
    for _ in range(2):
        assert run("solve", png_path, "What is the total?", *LOCAL, "--json", "--strategy", "bon") == 0
        found.append(json.loads(capsys.readouterr().out))
    first, second = found
    assert Solution.model_validate(first).complete
    assert first["parameters"]["seed"] == 0
    assert len(first["tree"]) == first["usage"]["candidates"] == 8 * 4
    assert {node["end"] for node in first["tree"]} == {"step", "answer"}
    for reply in found:
        del reply["id"], reply["timings"]
    assert first == second


def test_without_a_prm_the_likelihood_decides(png_path: str, capsys: pytest.CaptureFixture[str]):
    assert run("solve", png_path, "?", *LOCAL, "--prm", "none", "--json", "--no-tree") == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["parameters"]["score"] == "likelihood"
    assert reply["usage"]["prm_reads"] == 0
    assert reply["tree"] is None


@pytest.mark.parametrize("named", [["--prm", "judge"], ["--prm-format", "judge"]])
def test_the_policy_judges_itself_where_it_is_asked_to(
    named: list[str], png_path: str, capsys: pytest.CaptureFixture[str]
):
    assert run("solve", png_path, "?", "--policy", "scripted", *named, "--json") == 0
    reply = json.loads(capsys.readouterr().out)
    assert (reply["parameters"]["score"], reply["parameters"]["aggregation"]) == ("prm", "mean")
    assert all(step["score"] is not None for step in reply["steps"])


def test_a_server_is_asked_where_there_is_one(
    png_path: str, served: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    assert run("solve", png_path, "?", "--strategy", "beam", "--n", "2", "--top-p", "0.9", "--no-tree") == 0
    body = served[0]
    del body["image"]
    assert body == {
        "question": "?",
        "strategy": "beam",
        "n": 2,
        "top_p": 0.9,
        "seed": 0,
        "return_tree": False,
        "stream": True,
    }
    captured = capsys.readouterr()
    assert "Answer: 12" in captured.out
    assert "asking the server at http://127.0.0.1:8000" in captured.err


def test_several_pictures_are_sent_in_their_order_and_none_where_none_is_given(
    png_path: str, tmp_path: Path, served: list[dict[str, Any]]
):
    (tmp_path / "b.png").write_bytes(Path(png_path).read_bytes() + b"\0")
    assert run("solve", "--image", png_path, "--image", str(tmp_path / "b.png"), "Which is wider?") == 0
    assert run("solve", png_path, "--image", str(tmp_path / "b.png"), "Which is wider?") == 0
    assert run("solve", "What is 2 + 3?") == 0
    first, second, bare = served
    assert len(set(first["images"])) == 2
    assert (second["images"], second["question"]) == (first["images"], "Which is wider?")
    assert {"image", "images"} & set(bare) == set()


def test_a_conversation_in_a_file_is_sent_as_it_is(png_path: str, tmp_path: Path, served: list[dict[str, Any]]):
    conversation = [{"role": "user", "content": [TEXT]}, {"role": "assistant", "content": [{**TEXT, "text": "Two."}]}]
    (tmp_path / "said.json").write_text(json.dumps(conversation), "utf-8")
    assert run("solve", png_path, "And now?", "--history", str(tmp_path / "said.json")) == 0
    assert served[0]["history"] == conversation


def test_a_conversation_with_its_pictures_is_shown_to_the_models_in_this_process(
    png_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    uri = f"data:image/png;base64,{base64.b64encode(Path(png_path).read_bytes()).decode()}"
    said = [
        {"role": "user", "content": [TEXT, {"type": "image_url", "image_url": {"url": uri}}]},
        {"role": "assistant", "content": "Two."},
    ]
    (tmp_path / "said.json").write_text(json.dumps(said), "utf-8")
    used: list[dict[str, Any]] = []
    for more in ([], ["--history", str(tmp_path / "said.json")]):
        assert run("solve", png_path, "And now?", *LOCAL, "--json", "--strategy", "greedy", *more) == 0
        used.append(json.loads(capsys.readouterr().out)["usage"])
    assert used[1]["policy_prompt_tokens"] > used[0]["policy_prompt_tokens"]


@pytest.mark.parametrize(
    ("content", "policy", "told"),
    [
        (None, LOCAL, "No such file"),
        ("[", LOCAL, "its content: Invalid JSON"),
        ('[{"role": "tool", "content": "x"}]', LOCAL, "[0].role: Value error, role 'tool' is not supported"),
        ('[{"role": "user", "content": "x\\u0000"}]', LOCAL, "message 0 contains a NUL character"),
        ('[{"role": "user", "content": "Hello."}]', ["--policy", "cos-tiny"], "was trained on questions alone"),
    ],
)
def test_a_conversation_that_cannot_be_used_is_told_before_anything_starts(
    content: str | None, policy: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "said.json"
    if content is not None:
        path.write_text(content, "utf-8")
    assert run("solve", "?", *policy, "--history", str(path)) == 2
    assert told in capsys.readouterr().err


def test_several_pictures_are_asked_about_in_this_process_and_drawn(png_path: str, tmp_path: Path):
    drawn = tmp_path / "tree.svg"
    assert run("solve", "--image", png_path, "--image", png_path, "?", *LOCAL, "--picture", str(drawn)) == 0
    shown = [*ElementTree.parse(drawn).getroot().iter("{http://www.w3.org/2000/svg}image")]
    assert len({image.attrib["x"] for image in shown}) == 2


@pytest.mark.usefixtures("served")
def test_the_environment_may_name_the_server(
    png_path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COS_URL", "http://there:1234")
    assert run("solve", png_path, "?", "--json") == 0
    assert "http://there:1234" in capsys.readouterr().err
    assert run("solve", png_path, "?", *LOCAL, "--json") == 0
    assert "asking" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["no/such.png", "?", *LOCAL], 2, "no/such.png"),
        (["IMAGE", "?", *LOCAL, "--strategy", "bem"], 2, "unknown strategy 'bem'; did you mean 'beam'? available: "),
        (["IMAGE", "?", *LOCAL, "--strategy", "greedy", "--n", "3"], 2, "has no parameter 'n'"),
        (["IMAGE", "?", *LOCAL, "--prm", "none", "--score", "prm"], 2, "needs a PRM"),
        (["IMAGE", "?", "--policy", "/no/such/policy", "--prm", "none"], 2, "/no/such/policy"),
        (["IMAGE", "?", "--policy", "some/model"], 2, "needs a --prm"),
        (["IMAGE", "?", *LOCAL, "--url", "http://127.0.0.1:9"], 2, "give one or the other"),
        (["IMAGE", "?", "--prm-url", "http://a", "--url", "http://127.0.0.1:9"], 2, "give one or the other"),
        (
            ["IMAGE", "?", "--policy-url", "host:8000"],
            2,
            "--policy-url host:8000: expected the address of a vLLM server",
        ),
        (["IMAGE", "?", "--prm-api-key", "k"], 2, "--prm-api-key needs a --prm-url"),
        (["IMAGE", "?", "--prm", "none", "--prm-url", "http://a"], 2, "--prm-url http://a needs a --prm"),
        (["IMAGE", "?", "--url", "localhost"], 2, "no http address"),
        (["IMAGE", "?", "--url", "http://127.0.0.1:9"], 1, "no server at http://127.0.0.1:9"),
        (["IMAGE", "?", "--score", "luck"], 2, "'luck' is not one of"),
        (["IMAGE"], 2, "QUESTION"),
        (["IMAGE", "IMAGE", "?"], 2, "give several pictures by --image"),
    ],
)
def test_trouble_is_named_and_has_its_exit_status(
    arguments: list[str], status: int, message: str, png_path: str, capsys: pytest.CaptureFixture[str]
):
    given = [png_path if argument == "IMAGE" else argument for argument in arguments]
    assert run("solve", *given) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_chain_is_not_scored_by_a_vllm_server_without_an_address(png_path: str, capsys: pytest.CaptureFixture[str]):
    assert run("score", png_path, "?", "--step", "a", "--prm-url", "host:8000") == 2
    assert "--prm-url host:8000: expected the address of a vLLM server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "expected"), [(None, "sk-environment"), ("sk-flag", "sk-flag")], ids=["environment", "flag"]
)
def test_the_key_of_a_vllm_server_is_the_flag_s_or_the_environment_s(
    flag: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COS_PRM_API_KEY", "sk-environment")
    found = ModelServers(prm_url="http://two:8000/v1", prm_api_key=flag).checked()
    assert (found.prm_url, found.prm_api_key) == ("http://two:8000", expected)
    assert expected not in repr(found)
    assert ModelServers(policy_url="http://one:8000").checked().prm_api_key is None


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000/a.png", "https://example.com/a.png"])
def test_an_address_in_place_of_a_file_is_told_with_the_fix(address: str, capsys: pytest.CaptureFixture[str]):
    assert run("solve", address, "What is the total?", *LOCAL) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"image '{address}': remote images are not fetched; download it and give the file" in told


def test_a_file_that_is_no_image_is_told(tmp_path: Any, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "note.txt"
    path.write_text("hello")
    assert run("solve", str(path), "?", *LOCAL) == 2
    assert "image: not an image" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from cos.clients.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'transformers', 'numpy', 'scipy', 'httpx', 'pydantic', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("solve", "eval", "bench", "train"):
        assert command in done.stdout
