"""Between OpenAI's chat completions and a search: messages to a question, a result to a message or to chunks."""

import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from cos.search.errors import InputError
from cos.search.result import Result
from cos.search.strategies import resolve
from cos.server.chat_schemas import (
    ChatReply,
    ChatRequest,
    ChatUsage,
    Choice,
    CompletionDetails,
    ReplyMessage,
)
from cos.server.errors import input_error
from cos.server.streaming import DONE, frame
from cos.wire.asked import Asked, Said, Sent, role_of, said
from cos.wire.conversation import Message
from cos.wire.reply import Candidate, Solution
from cos.wire.request import SearchOptions, usable_question

_SAMPLING = "steps are sampled by temperature and top_p"
UNHONOURED: dict[str, tuple[tuple[Any, ...], str]] = {
    "top_k": ((None, 0, -1), _SAMPLING),
    "min_p": ((None, 0), _SAMPLING),
    "repetition_penalty": ((None, 1), _SAMPLING),
    "reasoning_effort": ((None,), "cos.strategy and cos.n say how much is searched"),
    "chat_template_kwargs": ((None, {}), "the prompt is the one that the policy was trained on"),
}
"""Fields that have no effect here: the values that ask for none, and why others have none."""
_NOTE = re.compile(r"\s*<([a-z][\w-]*)>.*?</\1>\s*(?=\S)", re.DOTALL)
"""An element before the question, such as a list of attached files: clients put it there, not their users."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What the messages ask."""

    asked: Asked
    sent: tuple[Sent, ...]
    """Its pictures: first those of the conversation in order, then the question's."""
    left_out: tuple[str, ...] = ()
    """What is kept from a policy that was trained on questions alone."""


def read(request: ChatRequest, *, system_text: bool = True) -> Chat:
    """The user's last message, or the last ones in a row, are the question; all before is the conversation.

    Without ``system_text`` the policy cannot do with anything around a question. Then the conversation, notes that a
    client puts before the question, and messages before that of the image are left out; the pictures are the last ones
    that were sent. Errors: InputError naming the message.
    """
    messages = request.messages
    users = [index for index, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise InputError("messages: there is no user message; send the question in one", "messages")
    last = users[-1]
    if late := [index for index in range(last + 1, len(messages)) if messages[index].role == "assistant"]:
        param = f"messages[{late[0]}].role"
        raise InputError(
            f"{param}: the conversation ends with a message of the assistant; a search answers the user, so that the "
            "last message must be the user's",
            param,
        )
    # What the system says behind the question goes before it: nothing can stand behind a question.
    ordered = said(messages[: last + 1], "messages")
    asking = ordered.pop()
    ordered += said(messages[last + 1 :], "messages", last + 1)
    if not system_text:
        return _alone(messages, ordered, asking, last)
    sent = tuple(picture for turn in (*ordered, asking) for picture in turn.sent)
    history = tuple(turn.turn for turn in ordered if turn.role != "system" or "".join(turn.texts).strip())
    asked = Asked(_question("\n".join(asking.texts), last), history=history, placed=asking.placed)
    return Chat(asked, sent)


def _alone(messages: Sequence[Message], ordered: Sequence[Said], asking: Said, last: int) -> Chat:
    """The question as a policy sees it that was trained on questions alone."""
    first = last
    while first and role_of(messages[first - 1]) == "user":
        first -= 1
    shown = [index for index in range(first, last + 1) if any(part.image_url for part in messages[index].content)]
    (late,) = said(messages[shown[0] if shown else first : last + 1], "messages", first)
    recent = "\n".join(late.texts)
    whole = "\n".join(asking.texts)
    if not recent.strip():
        recent = whole
    bare = _without_notes(recent)
    found = {
        "the system message": any(turn.role == "system" and "".join(turn.texts).strip() for turn in ordered),
        "the conversation before the question": any(turn.role != "system" for turn in ordered),
        "the message before that of the picture": bool(whole.removesuffix(recent).strip()),
        "the client's note before the question": bare != recent,
    }
    sent = asking.sent or next((turn.sent for turn in reversed(ordered) if turn.sent), ())
    return Chat(Asked(_question(bare, last)), sent, tuple(what for what, is_so in found.items() if is_so))


def _without_notes(text: str) -> str:
    start = 0
    while note := _NOTE.match(text, start):
        start = note.end()
    return text[start:]


def no_picture() -> InputError:
    """The error of a chat without a picture."""
    return InputError(
        "this model answers questions about a picture, and there is none: attach a PNG, JPEG or WebP to your message "
        '(in the API: {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}} as a part of the user '
        "message; a server started with --no-image-required takes questions without one)",
        "messages",
    )


def _question(text: str, index: int) -> str:
    try:
        return usable_question(text)
    except ValueError as error:
        param = f"messages[{index}].content"
        raise InputError(f"{param}: {error}", param) from error


def options(request: ChatRequest, default_strategy: str) -> SearchOptions:
    """The search's options: those of ``cos``, then OpenAI's own of the same meaning. ``default_strategy``: of a request
    that names none. Errors: InputError."""
    is_cold, is_greedy = request.temperature == 0, _is_greedy(request, default_strategy)
    seed = request.seed if request.seed is not None and request.seed >= 0 else None
    given = {
        # Who asks for temperature 0 wants the same answer again.
        "seed": 0 if seed is None and is_cold else seed,
        "top_p": request.top_p,
        "temperature": request.temperature if is_greedy else request.temperature or None,
    }
    try:
        return SearchOptions.model_validate({**given, **request.cos.model_dump(exclude_unset=True)})
    except ValidationError as error:
        raise input_error(error) from error


def _is_greedy(request: ChatRequest, default_strategy: str) -> bool:
    try:
        return resolve(request.cos.strategy or default_strategy).name == "greedy"
    except InputError:
        # The planner tells it.
        return False


def warnings(request: ChatRequest, chat: Chat, default_strategy: str) -> list[str]:
    """What the request asks for and does not get."""
    found: list[str] = []
    for what in chat.left_out:
        found.append(
            f"{what} was left out: this policy was trained on questions alone, and its config.json says so "
            "(cos_system_text)"
        )
    if request.temperature == 0 and request.cos.temperature is None and not _is_greedy(request, default_strategy):
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
    for name, choice in (("tools", request.tool_choice), ("functions", request.function_call)):
        if getattr(request, name) and choice != "none":
            found.append(f"{name} was ignored: a search answers by itself and calls none")
    for name, (neutral, why) in UNHONOURED.items():
        if getattr(request, name) not in neutral:
            found.append(f"{name} was ignored: {why}")
    return found


def step_line(number: int, step: Candidate, *, may_have_score: bool = True) -> str:
    """One step as a line of text: ``Step 2 (score 0.91): what it says``."""
    notes = ["unscored" if step.score is None else f"score {step.score:.2f}"] if may_have_score else []
    notes += [step.end] if step.end != "step" else []
    head = f"Step {number} ({', '.join(notes)})" if notes else f"Step {number}"
    return f"{head}: {step.text}".rstrip()


def step_lines(solution: Solution) -> list[str]:
    """The winning chain's steps, a line each, then the named parts of the text that holds the answer."""
    scored = solution.has_step_scores
    steps = [step_line(number, step, may_have_score=scored) for number, step in enumerate(solution.steps, 1)]
    return steps + [text for text in solution.answer_fields.values() if text]


def answer_tokens(result: Result) -> int:
    """Tokens of the final answer alone."""
    return result.chain.candidates[-1].tokens if result.chain.is_answered else 0


def finish(reply: Solution) -> Literal["stop", "length"]:
    """OpenAI's reason: a whole answer, or a limit."""
    return "stop" if reply.complete else "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished search as a chat completion, whole or in chunks."""

    id: str
    created: int
    reply: Solution
    usage: ChatUsage

    @classmethod
    def of(cls, reply: Solution, prompt_tokens: int, answer_tokens: int) -> "Completion":
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
        reasoning = "\n".join(step_lines(self.reply))
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
        lines = step_lines(self.reply)
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
