"""Between OpenAI's chat completions and a search: messages to a question, a result to a message or to chunks."""

import time
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from cos.search.errors import InputError
from cos.search.types import Result
from cos.server.chat_schemas import (
    ChatReply,
    ChatRequest,
    ChatUsage,
    Choice,
    CompletionDetails,
    ReplyMessage,
)
from cos.server.errors import input_error
from cos.server.schemas import SearchOptions, SolveReply, StepReply, usable_question
from cos.server.streaming import DONE, frame


@dataclass(frozen=True, slots=True)
class Asked:
    """What the messages ask."""

    text: str
    image_url: str | None
    image_param: str
    """Where in the request the image stands."""


def asked(request: ChatRequest) -> Asked:
    """System texts before the question, a line each; at most one image. Errors: InputError naming the message."""
    users = [index for index, message in enumerate(request.messages) if message.role == "user"]
    if len(users) != 1:
        raise InputError(
            f"messages: {len(users)} user messages; this server answers single questions, send exactly one", "messages"
        )
    images: list[tuple[str, str]] = []
    lines: dict[bool, list[str]] = {False: [], True: []}
    for index, message in enumerate(request.messages):
        for place, part in enumerate(message.content):
            param = f"messages[{index}].content[{place}].image_url"
            if part.text is not None:
                lines[message.role == "user"].append(part.text)
            elif message.role != "user":
                raise InputError(f"{param}: an image belongs in the user message", param)
            elif part.image_url is not None:
                images.append((part.image_url.url, param))
    if len(images) > 1:
        raise InputError(f"{images[1][1]}: a second image; a question is about one image", images[1][1])
    url, param = images[0] if images else (None, "messages")
    return Asked(_question("\n".join([*lines[False], *lines[True]]), users[0]), url, param)


def _question(text: str, index: int) -> str:
    try:
        return usable_question(text)
    except ValueError as error:
        param = f"messages[{index}].content"
        raise InputError(f"{param}: {error}", param) from error


def options(request: ChatRequest) -> SearchOptions:
    """The search's options: those of ``cos``, then OpenAI's own of the same meaning. Errors: InputError."""
    given = {"seed": request.seed, "top_p": request.top_p, "temperature": request.temperature or None}
    try:
        return SearchOptions.model_validate({**given, **request.cos.model_dump(exclude_unset=True)})
    except ValidationError as error:
        raise input_error(error) from error


def warnings(request: ChatRequest) -> list[str]:
    """What the request asks for and does not get."""
    found: list[str] = []
    if request.temperature == 0 and request.cos.temperature is None:
        found.append(
            "temperature 0 was ignored: it would make all candidates of a search equal; "
            "set cos.temperature, or cos.strategy 'greedy' for one chain at temperature 0"
        )
    for name in ("max_completion_tokens", "max_tokens"):
        if getattr(request, name) is not None:
            found.append(
                f"{name} was ignored: a search writes many chains; cos.budget.tokens limits their cost, "
                "cos.step_tokens and cos.max_steps their length"
            )
    if request.ignore_eos:
        found.append("ignore_eos was ignored: a chain ends where its answer ends")
    return found


def step_line(step: StepReply) -> str:
    """One step as a line of text: ``Step 2 (score 0.91): name — thought``."""
    score = "unscored" if step.score is None else f"score {step.score:.2f}"
    if step.name is None:
        return f"Step {step.index} ({score}, {step.end}): {step.excerpt or ''}".rstrip()
    return f"Step {step.index} ({score}): {step.name} — {step.thought}"


def answer_tokens(result: Result) -> int:
    """Tokens of the final answer alone."""
    return len(result.chain.candidates[-1].token_ids) if result.chain.is_answered else 0


def finish(reply: SolveReply) -> Literal["stop", "length"]:
    """OpenAI's reason: a whole answer, or a limit."""
    return "stop" if reply.complete else "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished search as a chat completion, whole or in chunks."""

    id: str
    created: int
    reply: SolveReply
    usage: ChatUsage

    @classmethod
    def of(cls, reply: SolveReply, prompt_tokens: int, answer_tokens: int) -> "Completion":
        """``answer_tokens``: those of the final answer alone."""
        generated = reply.usage.tokens_generated
        usage = ChatUsage(
            prompt_tokens=prompt_tokens,
            completion_tokens=generated,
            total_tokens=prompt_tokens + generated,
            completion_tokens_details=CompletionDetails(reasoning_tokens=generated - answer_tokens),
        )
        return cls(id=f"chatcmpl-{uuid.uuid4().hex}", created=int(time.time()), reply=reply, usage=usage)

    def whole(self) -> ChatReply:
        """As one reply."""
        reasoning = "\n".join(step_line(step) for step in self.reply.steps)
        message = ReplyMessage(content=self.reply.answer or "", reasoning=reasoning, reasoning_content=reasoning)
        return ChatReply(
            id=self.id,
            created=self.created,
            model=self.reply.model,
            choices=(Choice(message=message, finish_reason=finish(self.reply)),),
            usage=self.usage,
            cos=self.reply,
        )

    def frames(self, *, include_usage: bool) -> list[str]:
        """As server-sent chunks. The role comes with the first text: clients time the first chunk as a token."""
        lines = [step_line(step) for step in self.reply.steps]
        texts = [line if index == 0 else f"\n{line}" for index, line in enumerate(lines)]
        deltas: list[dict[str, str]] = [{"reasoning": text, "reasoning_content": text} for text in texts]
        deltas.append({"content": self.reply.answer or ""})
        deltas[0] = {"role": "assistant", **deltas[0]}
        chunks = [self._chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
        last = self._chunk([{"index": 0, "delta": {}, "finish_reason": finish(self.reply)}])
        chunks.append({**last, "cos": self.reply.model_dump(mode="json")})
        if include_usage:
            chunks.append({**self._chunk([]), "usage": self.usage.model_dump()})
        return [*(frame(chunk) for chunk in chunks), DONE]

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.reply.model,
            "choices": choices,
        }
