"""What a wording of one's own puts around a question and its steps is kept as written, and makes no tag of a text."""

from typing import Any

import pytest

from cos.engines.vocabulary import HfVocabulary
from cos.prm.dialogue import parsed
from cos.prm.ports import Judged
from cos.prm.worded import WordedPrm, said_by
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.types import Piece, Question
from tests.prm.test_worded import Rendering, chain_of

TAGS = 'steps: tags\ntext_in: no_turn\npictures: none\ngood: "+"\nbad: "-"\n'


def format_of(text: str, reader: Any) -> WordedPrm:
    kind: Any = type("Own", (WordedPrm,), {"name": "own.yaml", "wording": parsed(text, "own.yaml")})
    vocabulary = reader.vocabulary
    return kind(reader, Judged(vocabulary=vocabulary, grammar=ParagraphGrammar(vocabulary)))


async def shown(text: str, question: str, *steps: str) -> tuple[list[int], HfVocabulary]:
    reader = Rendering()
    session = await format_of(text, reader).open(Question(question))
    await session.score(chain_of(*steps))
    return reader.shown(), reader.words


@pytest.mark.parametrize(
    "wording",
    [
        'question: "Problem: {question}\\n"\ntag: " ки"\nseparator: "\\n"\n',
        'question: "{question} "\ntag: " ки"\nseparator: " "\n',
        'question: "{question}\\n"\nstep: "So {step}"\ntag: " ки"\nseparator: "\\n"\n',
        'question: "Q:{question}\\n"\ntag: " +"\nseparator: " "\n',
    ],
)
@pytest.mark.parametrize("said", ["ки", "ки ки", "+", " +", "+ 1", "и", "it is"])
async def test_no_text_becomes_a_tag_by_what_stands_beside_it(wording: str, said: str) -> None:
    text = f"{TAGS.replace(chr(43), 'Yes').replace(chr(34) + '-', chr(34) + 'No')}{wording}"
    plain, words = await shown(text, "a", "One.", "b", "Two.")
    strange, _ = await shown(text, said, "One.", said, said)
    (tag,) = words.encode(parsed(text, "").tag)
    assert strange.count(tag) == plain.count(tag) == 3


@pytest.mark.parametrize(
    ("step", "text", "written"),
    [
        ("{step}\n", "One. ", "One.\n"),
        ("Step {number}: {step}\n", "", "Step 3:\n"),
        ("Step {number}: {step}", " ", "Step 3:"),
        ("{step} =>", "One.", "One. =>"),
    ],
)
def test_what_stands_behind_a_step_is_kept_to_the_last_line_end(step: str, text: str, written: str) -> None:
    wording = parsed(f"{TAGS}tag: x\nstep: {step!r}\n".replace("'", '"'), "own.yaml")
    assert said_by(Piece("step", text), 3, wording) == written


async def test_a_line_end_behind_a_step_stands_before_its_tag() -> None:
    text = TAGS + 'question: "{question}\\n"\nstep: "Step {number}: {step}\\n"\ntag: <prm>\nseparator: "\\n"\n'
    ids, words = await shown(text, "Q", "One.", "Two.")
    assert words.decode(ids) == "Q\nStep 1: One.\n<prm>\nStep 2: Two.\n<prm>"
