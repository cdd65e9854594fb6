"""A judge behind a socket that answers as it is told, chains to rate, and the stage that asks."""

import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from cos.search.grammars.cos import Step
from cos.training.config.keys import JudgeKeys
from cos.training.config.recipe import LabelConfig
from cos.training.data.rows import ChainRow, ProblemRow, TagLabel, read_rows, write_rows
from cos.training.stages.label import run_label
from tests.training.training_support import context

STEPS = (
    Step("Read", "Row 1 shows 4.", "It is clear."),
    Step("Plan", "I add.", "Nothing to check."),
    Step("Add", "4 + 1 = 5.", "-"),
)
GOOD, BAD = TagLabel(1.0, True), TagLabel(0.0, False)
Ratings = list[str]
Answer = Ratings | Response


def completion(content: str | None, finish_reason: str = "stop", **message: Any) -> Response:
    """A reply as OpenAI's API gives it."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": content, **message},
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    head = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge"}
    return JSONResponse({**head, "choices": [choice], "usage": usage})


def refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "x", "code": status}}, status)


@dataclass
class Served:
    """A judge behind a socket that answers as it is told, and what it was asked."""

    url: str
    answer: Callable[[dict[str, Any], int], Answer]
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    keys: list[str | None] = field(default_factory=list[str | None])

    def reply(self, body: dict[str, Any], key: str | None) -> Response:
        self.asked.append(body)
        self.keys.append(key)
        found = self.answer(body, len(self.asked))
        return found if isinstance(found, Response) else completion(json.dumps({"labels": found}))


def chain_in(body: dict[str, Any]) -> dict[str, Any]:
    """The chain that a request is about."""
    return json.loads(body["messages"][1]["content"][2]["text"])


def steps_in(body: dict[str, Any]) -> int:
    return len(chain_in(body)["steps"])


def always(rating: str) -> Callable[[dict[str, Any], int], Answer]:
    return lambda body, number: [rating] * steps_in(body)


@contextmanager
def serving() -> Generator[Served]:
    """A server on a free port, in a thread of this process, whose ratings are all Good until it is told otherwise."""
    listener = socket.create_server(("127.0.0.1", 0))
    served = Served(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", always("Good"))
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return served.reply(await request.json(), request.headers.get("authorization"))

    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield served
    server.should_exit = True
    thread.join()


def chain(folder: Path, number: int, steps: tuple[Step, ...] = STEPS, answer: str = "5") -> ChainRow:
    image = folder / "picture.png"
    Image.new("RGB", (8, 6), (200, 10, 10)).save(image)
    problem = ProblemRow(id="p", image=str(image), question="What is the sum — «all» of it?", answer="5")
    return ChainRow(id=f"p/{number}", problem=problem, steps=steps, answer=answer)


def distinct(folder: Path, count: int) -> list[ChainRow]:
    """Chains that say different things."""
    return [chain(folder, number, (Step("Read", f"I see {number}.", "-"),)) for number in range(count)]


def keys(judge: Served, **values: Any) -> JudgeKeys:
    return JudgeKeys.model_validate(
        {"model": "judge", "url": judge.url, "timeout_s": 20, "retries": 2, "concurrency": 2, **values}
    )


def label(folder: Path, rows: list[ChainRow], asked: JudgeKeys, **values: Any) -> tuple[list[ChainRow], dict[str, Any]]:
    """Runs the stage, which may fail for any share of the chains unless told otherwise; its chains and outcome."""
    write_rows(folder / "chains.jsonl", rows)
    where = context(folder, "label")
    given = {"chains": (str(folder / "chains.jsonl"),), "sources": ("judge",), "judge": asked, "failed_at_most": 1.0}
    config = LabelConfig.model_validate({**given, **values})
    run_label(config, where)
    done = json.loads((where.folder / "done.json").read_text())
    return list(read_rows(where.folder / "chains.jsonl", ChainRow)), done["outcome"]
