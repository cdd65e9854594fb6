"""vLLM's routes for tokens, answered by a scripted engine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from cos.engines.chat import ChatPrompt
from cos.engines.ports import Session
from cos.engines.remote import RemoteEngine, Served
from cos.engines.remote_http import Address, Peer
from cos.engines.remote_pictures import EncodedPictures
from cos.engines.remote_wire import Generate
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import TURN_END, ScriptedVocabulary
from cos.engines.settings import EngineSettings, Role
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.types import Turn
from tests.engines.stub_server import Answering, Asked, Reply, StubServer, answer, stub

GENERATE = "/inference/v1/generate"


class Template:
    """A chat template that writes what the turns say, and then that the turn has ended."""

    def apply_chat_template(self, turns: list[dict[str, Any]], **_: Any) -> str:
        return "".join(part.get("text", "#") for turn in turns for part in turn["content"]) + TURN_END


class ScriptedVllm:
    """Answers as a vLLM server would that runs this engine."""

    def __init__(self, script: Script | None = None) -> None:
        self.engine = ScriptedEngine(script, vocabulary=ScriptedVocabulary())
        self._end = self.engine.vocabulary.control_id(TURN_END)
        self._sessions: dict[tuple[int, ...], Session] = {}

    async def __call__(self, asked: Asked) -> Reply:
        ids, params = asked.body["token_ids"], asked.body["sampling_params"]
        base = tuple(ids[: ids.index(self._end) + 1]) if self._end in ids else tuple(ids)
        if base not in self._sessions:
            text = self.engine.vocabulary.decode([each for each in base if each != self._end])
            self._sessions[base] = await self.engine.open(Prompt((Turn("user", text),)))
        session, prefix = self._sessions[base], tuple(ids[len(base) :])
        if labels := params.get("logprob_token_ids"):
            wanted = tuple(dict.fromkeys(labels))
            read = await session.read_labels(prefix, wanted, 0)
            top = [{"token_id": label, "logprob": value} for label, value in zip(wanted, read.logprobs, strict=True)]
            return self._answer(asked, [0], "length", None, {"content": [{"token_id": 0, "top_logprobs": top}]})
        drawn = await session.draw(
            prefix,
            Draw(
                max_tokens=params["max_tokens"],
                stops=Stops(tuple(params["stop_token_ids"]), tuple(params["stop"])),
                seed=params["seed"],
                temperature=params["temperature"],
            ),
        )
        assert isinstance(drawn.written, tuple)
        return self._answer(asked, [*drawn.written], drawn.finish, drawn.stop, None)

    def _answer(self, asked: Asked, ids: list[int], finish: str, stop: int | str | None, logprobs: Any) -> bytes:
        choice = {"index": 0, "token_ids": ids, "finish_reason": finish, "stop_reason": stop, "logprobs": logprobs}
        return answer({"choices": [choice], "usage": {"prompt_tokens": len(asked.body["token_ids"])}})


@asynccontextmanager
async def connected(url: str, role: Role = "policy", **told: Any) -> AsyncGenerator[RemoteEngine]:
    """A runtime on a stub at an address, which is not asked what it can carry."""
    peer = Peer(Address(url=url, role=role, **told))
    vocabulary: Any = ScriptedVocabulary()
    served = Served(model="m", context_tokens=2048, route=Generate(), has_priorities=True, lacks=("lacks much",))
    settings = EngineSettings(role=role, model="m", runtime="remote", url=url)
    engine = RemoteEngine(settings, peer, served, ChatPrompt(vocabulary, Template()), vocabulary, EncodedPictures())
    peer.look_after()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def remote(
    answering: Answering, role: Role = "policy", **told: Any
) -> AsyncGenerator[tuple[RemoteEngine, StubServer]]:
    """A runtime on a stub that answers so."""
    async with stub(answering) as server, connected(server.url, role, **told) as engine:
        yield engine, server


def written(asked: Asked, **logprobs: Any) -> dict[str, Any]:
    """One token, as vLLM answers."""
    prompt = asked.body["token_ids"]
    choice = {"index": 0, "token_ids": [40], "finish_reason": "length", "stop_reason": None, **logprobs}
    reply: dict[str, Any] = {"choices": [choice], "usage": {"prompt_tokens": len(prompt)}}
    if asked.body.get("return_token_ids"):
        shown = asked.body.get("content_parts", ())
        reply |= {"prompt_token_ids": prompt, "mm_placeholders": {"image": [{"offset": 0, "length": 1}] * len(shown)}}
    return reply


def works(asked: Asked) -> Reply:
    return answer(written(asked))


def refusal(status: int, message: str = "no", **headers: str) -> bytes:
    return answer({"error": {"message": message, "type": "x", "code": status}}, status, **headers)
