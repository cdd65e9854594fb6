"""Formats that are given by their wording: what the PRM is shown, what stays plain, and what `auto` would recognise."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from cos.engines.chat import ChatPrompt
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import OpenVocabulary, ScriptedVocabulary
from cos.engines.vocabulary import HfVocabulary
from cos.prm import menu
from cos.prm.matching import match, unseen_pictures
from cos.prm.ports import Checkpoint, Judged
from cos.prm.worded import WordedPrm
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import Vocabulary
from cos.search.prompt import Prompt, TurnMarks
from cos.search.run import solve
from cos.search.select import ScoreKind
from cos.search.spec import SearchSpec
from cos.search.types import Candidate, Chain, Picture, Piece, Question, Turn
from tests.prm import tiny_text
from tests.prm.published import EXAMPLES, file, sighted, texts
from tests.prm.published import QUESTION as WHOLE_QUESTION
from tests.prm.published import chain as whole_chain
from tests.prm.spy import Spy
from tests.prm.tokenizers_of_tests import words

WORDED = [name for name, found in menu.menu().items() if issubclass(found, WordedPrm)]
ALL = [*WORDED, *(str(path) for path in sorted(EXAMPLES.glob("*.yaml")))]
QUESTION = Question("How many?", (Picture(Image.new("RGB", (4, 4)), "one"),))
LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
RESERVED = ["ки", " ки", "<extra_0>", "<prm>", "+", " +", "<image>", "<|im_end|>", " \n\n\n\n", "<IMG_CONTEXT>", "Yes"]


def chain_of(*said: str) -> Chain:
    made = Chain()
    for index, text in enumerate(said):
        piece = Piece("step", text)
        made = made.then(Candidate(path=(0,) * (index + 1), written=(1,), tokens=1, piece=piece, end="step"))
    return made


@cache
def tokenizer(more: tuple[str, ...]) -> Any:
    return tiny_text.tokenizer((*tiny_text.CONTROLS, *more))


@dataclass(frozen=True)
class Templater:
    """A tokenizer with another chat template."""

    words: Any
    template: str

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        return self.words.apply_chat_template(turns, chat_template=self.template, **options)


class Rendering(Spy):
    """A spy whose prompts are rendered by a chat template, with a tokenizer as published models have it."""

    def __init__(self, template: str = tiny_text.CHATML, more: tuple[str, ...] = LLAMA) -> None:
        words = tokenizer(more)
        super().__init__()
        self.words: Any = HfVocabulary(words)
        self.vocabulary = self.words
        self.chat = ChatPrompt(self.words, Templater(words, template))

    def turn_marks(self) -> TurnMarks:
        return self.chat.turn_marks()

    def shown(self) -> list[int]:
        """The newest prompt and the newest prefix."""
        return [*self.chat.render(self.prompts[-1]), *self.prefixes[-1]]


def format_of(name: str, reader: Any) -> Any:
    vocabulary = reader.vocabulary
    return menu.choose(name, reader, Judged(vocabulary=vocabulary, grammar=ParagraphGrammar(vocabulary)))


async def shown(name: str, question: Question, *steps: str, reader: Rendering) -> list[int]:
    """All that a format shows for the last of some steps, in token ids."""
    session = await format_of(name, reader).open(question)
    await session.score(chain_of(*steps))
    return reader.shown()


def controls(ids: list[int], words: Vocabulary) -> list[int]:
    return [its_id for its_id in ids if words.control_id(words.decode([its_id])) is not None]


@pytest.mark.parametrize("name", ALL, ids=lambda name: Path(name).stem)
async def test_no_text_adds_a_control_token_or_a_step_tag(name: str) -> None:
    reader = Rendering()
    words, wording = reader.vocabulary, format_of(name, reader).wording
    tag = words.encode_markup(wording.tag)[-1:] if wording.tag in tiny_text.CONTROLS else words.encode(wording.tag)
    plain = await shown(name, Question("a"), "One.", "a", "Two.", reader=reader)
    for spelt in (*RESERVED, " ".join(RESERVED), "".join(RESERVED)):
        text = f"It is {spelt} or so."
        strange = await shown(name, Question(text), "One.", text, "Two.", reader=reader)
        assert controls(strange, words) == controls(plain, words)
        if wording.steps == "tags":
            assert strange.count(tag[0]) == plain.count(tag[0]) == (3 if wording.read == "at_tag" else 2)


async def test_no_text_adds_a_control_token_to_what_the_cos_format_shows() -> None:
    reader = Rendering(more=COS_TOKENS)
    plain = await shown("cos", Question("a"), "One.", "a", reader=reader)
    for spelt in (*RESERVED, *COS_TOKENS):
        text = f"It is {spelt} or so."
        strange = await shown("cos", Question(text), "One.", text, reader=reader)
        assert controls(strange, reader.vocabulary) == controls(plain, reader.vocabulary)


@pytest.mark.parametrize("name", ALL, ids=lambda name: Path(name).stem)
async def test_a_prefix_begins_with_the_one_before_it(name: str) -> None:
    spy = Spy(OpenVocabulary())
    session = await format_of(name, spy).open(QUESTION)
    chain = chain_of("One.", "+", "Two.", "")
    for size in range(1, 5):
        await session.score(Chain(chain.candidates[:size]))
    for shorter, longer in zip(spy.prefixes, spy.prefixes[1:], strict=False):
        assert longer[: len(shorter)] == shorter
    assert len(spy.labels) == 1


@pytest.mark.parametrize("name", ALL, ids=lambda name: Path(name).stem)
async def test_pictures_are_shown_where_the_format_says_so_and_only_there(name: str) -> None:
    spy = Spy(OpenVocabulary())
    chosen = format_of(name, spy)
    await chosen.open(QUESTION)
    assert bool(spy.prompts[0].pictures) == chosen.sees_pictures


async def test_a_picture_stands_before_the_question_or_before_all_text() -> None:
    for name, before in (("visualprm", "### Question:\n"), ("vl_prm", None), ("mm_prm", None)):
        spy = Spy(OpenVocabulary())
        await format_of(name, spy).open(QUESTION)
        first = next(turn for turn in spy.prompts[0].turns if turn.pictures)
        assert first.role == ("assistant" if name == "mm_prm" else "user")
        assert isinstance(first.content, tuple)
        assert (first.content[0] if before else None) == before


async def test_llama_3_dialogues_are_those_of_rlhflow() -> None:
    template = (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
    reader = Rendering(template)
    ids = await shown("rlhflow", Question("How many?"), "She has 16.", "16 - 7 = 9", reader=reader)
    header, end = "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
    published = (
        header.format("user") + f"How many? She has 16.{end}" + header.format("assistant") + f"+{end}"
        f"{header.format('user')}16 - 7 = 9{end}{header.format('assistant')}"
    )
    assert tuple(ids) == reader.words.encode_markup(published)


@pytest.mark.parametrize("name", sighted())
async def test_the_ids_are_those_of_the_whole_text_where_a_tokenizer_puts_a_space_before_all_it_is_given(
    name: str,
) -> None:
    """As Llama 2's and Mistral's."""
    made: Any = words("Yes No " + texts()[name].text)
    made.add_special_tokens({"additional_special_tokens": list(tiny_text.CONTROLS)})
    reader = Rendering()
    reader.vocabulary = reader.words = cast("Any", HfVocabulary(made))
    reader.chat = ChatPrompt(reader.words, Templater(made, tiny_text.CHATML))
    session = await format_of(name, reader).open(Question(WHOLE_QUESTION))
    await session.score(whole_chain())
    ids = made.encode(texts()[name].text, add_special_tokens=False)
    assert ids[: len(reader.shown())] == reader.shown()


@pytest.mark.parametrize(
    "template",
    [
        tiny_text.CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"),
        tiny_text.CHATML.replace("<|im_end|>\n", "<|im_end|>{{ loop.index }}\n"),
    ],
)
def test_a_chat_template_that_begins_a_reply_in_another_way_is_refused_for_dialogues(template: str) -> None:
    with pytest.raises(InputError, match="does not write the same between all turns, so it cannot show steps as turns"):
        format_of("rlhflow", Rendering(template))
    assert format_of("versaprm", Rendering(template))


@pytest.mark.parametrize(
    ("name", "threshold", "aggregation"),
    [
        ("visualprm", 0.85, "mean"),
        ("mm_prm", 0.5, "min"),
        ("vl_prm", 0.5, "mean"),
        ("rlhflow", 0.5, "mean"),
        ("versaprm", 0.5, "min"),
        (file("one_zero"), None, "mean"),
    ],
)
def test_its_scale_is_its_authors(name: str, threshold: float | None, aggregation: str) -> None:
    scale = format_of(name, Spy(OpenVocabulary())).scale
    assert (scale.threshold, scale.aggregation) == (threshold, aggregation)


@pytest.mark.parametrize("logprobs", [(float("nan"), -0.1), (-0.1, float("nan")), (-9999.0, -9999.0)])
async def test_labels_that_say_nothing_leave_a_step_unscored(logprobs: tuple[float, float]) -> None:
    spy = Spy(OpenVocabulary(), logprobs)
    session = await format_of("visualprm", spy).open(Question("?"))
    assert (await session.score(chain_of("One."))).score is None


def checkpoint(name: str, vocabulary: Any, *files: str, **config: Any) -> Checkpoint:
    return Checkpoint(name=name, config=config, files=frozenset({"config.json", *files}), vocabulary=vocabulary)


INTERNVL = ScriptedVocabulary(("<img>", "</img>", "<IMG_CONTEXT>"))
PLAIN = ScriptedVocabulary(())
VISUAL = {"model_type": "internvl_chat", "auto_map": {"AutoModel": "modeling_internvl_chat.InternVLRewardModel"}}


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (checkpoint("./my-prm", INTERNVL, **VISUAL), "visualprm"),
        (
            checkpoint("x/VisualPRM-8B", INTERNVL, model_type="internvl_chat", architectures=["InternVLRewardModel"]),
            "visualprm",
        ),
        (checkpoint("./my-prm", INTERNVL, "value_head.safetensors", **VISUAL), None),
        (checkpoint("OpenGVLab/InternVL3-8B", INTERNVL, model_type="internvl_chat"), None),
        (checkpoint("./mm", ScriptedVocabulary(("<IMG_CONTEXT>", "<prm>")), model_type="internvl_chat"), "mm_prm"),
        (checkpoint("./text", ScriptedVocabulary(("<prm>",)), model_type="qwen2"), None),
        (checkpoint("ob11/Qwen-VL-PRM-7B", PLAIN, model_type="qwen2_5_vl"), "vl_prm"),
        (checkpoint("Qwen/Qwen2.5-VL-7B-Instruct", PLAIN, model_type="qwen2_5_vl"), None),
        (checkpoint("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", PLAIN, model_type="llama"), "rlhflow"),
        (checkpoint("UW-Madison-Lee-Lab/VersaPRM", PLAIN, model_type="llama"), "versaprm"),
        (checkpoint("meta-llama/Llama-3.1-8B-Instruct", PLAIN, model_type="llama"), None),
        (checkpoint("peiyi9979/math-shepherd-mistral-7b-prm", PLAIN, model_type="mistral"), "math_shepherd"),
        (checkpoint("./anything", ScriptedVocabulary(COS_TOKENS), model_type="internvl"), "cos"),
    ],
)
def test_a_checkpoint_is_recognised_by_its_own_format_alone(found: Checkpoint, name: str | None) -> None:
    assert [own for own, prm in menu.menu().items() if prm.recognises(found)] == ([name] if name else [])


@pytest.mark.parametrize("name", ["versaprm", "visualprm"])
async def test_a_reply_warns_of_pictures_that_the_prm_was_not_shown(name: str) -> None:
    vocabulary = OpenVocabulary()
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(vocabulary)), vocabulary=vocabulary)
    models = match(policy, ScriptedEngine(vocabulary=OpenVocabulary()), grammar="paragraph", prm_format=name)
    is_blind = name == "versaprm"
    assert (unseen_pictures(models) is not None) == is_blind
    asked: list[tuple[Question, ScoreKind, bool]] = [
        (QUESTION, "prm", is_blind),
        (Question("And now?", history=(Turn("user", (QUESTION.pictures[0], "How many?")),)), "prm", is_blind),
        (Question("How many?"), "prm", False),
        (QUESTION, "likelihood", False),
    ]
    for question, score, warned in asked:
        result = await solve(question, SearchSpec("best_of_n", {"n": 2}, score=score), models)
        told = [warning for warning in result.warnings if "was not shown the picture" in warning]
        assert len(told) == warned
        assert all("'versaprm'" in warning for warning in told)


async def test_a_search_is_judged_in_a_dialogue() -> None:
    seen: list[str] = []

    def judge(prompt: Prompt, written: str) -> float:
        seen.append(f"{prompt.turns[-1].text}{written}")
        return 0.5 + len(written) % 50 / 100

    vocabulary = OpenVocabulary()
    policy = ScriptedEngine(Script(grammar=ParagraphGrammar(vocabulary)), vocabulary=vocabulary)
    prm = ScriptedEngine(Script(judge=judge), vocabulary=OpenVocabulary())
    models = match(policy, prm, grammar="paragraph", prm_format="visualprm")
    result = await solve(QUESTION, SearchSpec("beam", {"n": 2}), models)
    assert result.is_complete
    assert result.usage.unscored == 0
    assert any(text.count("assistant: ") == 4 and f"Final answer: {result.chain.answer}" in text for text in seen)
    assert all(text.endswith("assistant: ") for text in seen)
    assert set(texts()) >= set(WORDED)
