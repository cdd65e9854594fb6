"""The judge that writes: any chat model says whether the newest step is right, and is held to a JSON schema. Nothing is
trained.

    question | the chain, as the assistant's turn | "Is the newest step right?" | {"right": true}

For models that do not answer in one word. The score is P(true) of true and false at the place of the word, read as that
of the judge which answers at once (`cos.prm.judge`). vLLM gets the schema as ``structured_outputs``: what was once
``guided_choice`` it leaves aside without a word since 0.12. What is no such JSON, from a server that leaves the schema
aside or by a token limit, is no score.
"""

import json
import re

from cos.prm.judge import ANSWER_CHECKED, STEP_CHECKED, Asker, JudgePrm
from cos.prm.ports import READ_PRIORITY, Judged, Reader, ReaderSession
from cos.prm.verdicts import priority_of, without_turn_end
from cos.search.errors import InputError
from cos.search.ports import Draw, Drawn, Encoder, Reading, ScorerSession, Stops, Vocabulary
from cos.search.types import Chain

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"right": {"type": "boolean"}},
        "required": ["right"],
        "additionalProperties": False,
    }
)
ASKED = 'Answer with JSON alone: {"right": true} or {"right": false}.'
TRUE = "true"
FALSE = "false"
VERDICT_TOKENS = 64
"""Most tokens of a verdict. What a model thinks before it needs more: --prm-verdict-tokens."""
_VERDICT = re.compile(r'\{\s*"right"\s*:\s*(true|false)\s*\}\s*$')


class JsonJudgePrm(JudgePrm):
    """Asks a chat model about the newest step, and has it write JSON. The model may be the policy itself."""

    name = "judge_json"
    ability = "text"
    asked = (f"{STEP_CHECKED} {ASKED}", f"{ANSWER_CHECKED} {ASKED}")

    def __init__(self, reader: Reader, judged: Judged) -> None:
        """Errors: InputError where the words of JSON begin alike, or the chat template cannot show a dialogue."""
        super().__init__(reader, judged)
        self._vocabulary = reader.vocabulary
        self._limit = judged.verdict_tokens or VERDICT_TOKENS

    def _words(self, vocabulary: Encoder) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return beginnings(vocabulary, TRUE, FALSE)

    def _opened(self, session: ReaderSession, asker: Asker) -> ScorerSession:
        return _Session(session, self, asker, self._vocabulary, self._limit)


class _Session:
    def __init__(
        self, session: ReaderSession, judge: JudgePrm, asker: Asker, vocabulary: Vocabulary, limit: int
    ) -> None:
        self._session = session
        self._judge = judge
        self._asker = asker
        self._vocabulary = vocabulary
        self._limit = limit
        self._lost = 0

    @property
    def tokens_aborted(self) -> int:
        """See `cos.search.ports.WritesVerdicts`."""
        return self._lost + self._session.tokens_aborted

    async def score(self, chain: Chain) -> Reading:
        """P(true) of true and false in the verdict on the chain's newest candidate; no score where none was written."""
        prefix = self._asker.prefix(chain)
        draw = Draw(
            max_tokens=self._limit,
            stops=Stops(),
            seed=0,
            temperature=0.0,
            priority=priority_of(chain),
            json_schema=SCHEMA,
        )
        drawn = await self._session.draw(prefix, draw)
        before = self._before_the_word(drawn)
        if before is None:
            return Reading(None, drawn.prompt_tokens, drawn.cached_tokens, drawn.tokens)
        try:
            read = await self._session.read_labels((*prefix, *before), self._judge.labels, READ_PRIORITY)
        except BaseException:
            self._lost += drawn.tokens
            raise
        return Reading(
            self._judge.score_of(read.logprobs),
            drawn.prompt_tokens + read.prompt_tokens,
            drawn.cached_tokens + read.cached_tokens,
            drawn.tokens,
        )

    def _before_the_word(self, drawn: Drawn) -> tuple[int, ...] | None:
        """What was written before "true" or "false"; None for what is no verdict."""
        if drawn.finish == "length" or (found := _VERDICT.search(drawn.text)) is None:
            return None
        ids, head, places = without_turn_end(drawn), drawn.text[: found.start(1)].rstrip(), list[int]()
        # From behind, as much may be written before it.
        for place in reversed(range(len(ids))):
            begun = self._vocabulary.decode(ids[:place]).rstrip()
            if begun == head:
                places.append(place)
            elif len(begun) < len(head):
                break
        # Space before a word may be a token of its own, or part of the word's first.
        usual = [place for place in reversed(places) if ids[place] in self._judge.labels]
        return next((ids[:place] for place in (*usual, *places)), None)


def beginnings(vocabulary: Encoder, one: str, other: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first tokens of two words, as they are written behind a colon with and without a space, and none that both
    words begin with. Errors: InputError where nothing else is left."""
    found = [
        dict.fromkeys(ids[0] for text in (word, f" {word}") if (ids := vocabulary.encode(text)))
        for word in (one, other)
    ]
    first, second = (tuple(each for each in found[own] if each not in found[1 - own]) for own in (0, 1))
    if not first or not second:
        raise InputError(
            f"the judge's tokenizer begins {one!r} and {other!r} with the same token; "
            "give another chat model as --prm, or --prm-format judge",
            "prm",
        )
    return first, second
