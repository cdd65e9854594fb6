"""The scripted runtime with grammars and PRM formats that it has never seen."""

import pytest

from cos.engines.launch import launch
from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import OpenVocabulary, ScriptedVocabulary
from cos.engines.settings import EngineSettings
from cos.prm.encoding import single
from cos.prm.matching import match
from cos.search.errors import InputError
from cos.search.grammar import Span
from cos.search.ports import Draw, Stops
from cos.search.prompt import Prompt
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Piece, Question, Turn
from tests.engines.lines import Lines


class Fielded(Lines):
    """Writes a step by its fields alone."""

    def spans(self, piece: Piece, *, first: bool) -> list[Span]:
        return [Span(piece.fields["question"])]


def test_a_grammar_that_cannot_write_a_step_without_fields_is_told_so() -> None:
    with pytest.raises(InputError, match=r"cannot write a step that has a text and no fields.*KeyError: 'question'"):
        ScriptedEngine(Script(grammar=Fielded(ScriptedVocabulary())))


def test_an_open_vocabulary_has_any_token_that_it_is_asked_for_and_plain_text_never_has_it() -> None:
    vocabulary = OpenVocabulary()
    before = vocabulary.encode_markup("it is good")
    good = single(vocabulary, "good", "a verdict")
    assert single(vocabulary, "good", "a verdict") == good
    assert len({good, *(single(vocabulary, word, "a verdict") for word in ("neutral", "bad"))}) == 3
    assert vocabulary.encode("it is good") == before
    assert vocabulary.encode_markup("it is good") == (*vocabulary.encode("it is "), good)
    assert vocabulary.decode((*before, good)) == "it is goodgood"
    assert vocabulary.fingerprint != ScriptedVocabulary().fingerprint


def test_a_vocabulary_that_was_asked_for_nothing_new_is_that_of_the_scripted_models() -> None:
    assert OpenVocabulary().fingerprint == ScriptedVocabulary().fingerprint


async def test_the_scripted_models_of_a_command_have_the_labels_of_any_format_and_the_marks_of_any_grammar() -> None:
    policy, prm = (EngineSettings(role=role, model="scripted", runtime="scripted") for role in ("policy", "prm"))
    engines = await launch(policy, prm)
    assert engines.prm is not None
    models = match(engines.policy, engines.prm, prm_format="math_shepherd")
    assert (await solve(Question("How much?"), SearchSpec("beam", {"n": 2}), models)).is_complete
    end = engines.policy.vocabulary.control_id("<|mine|>")
    assert isinstance(engines.policy, ScriptedEngine)
    engines.policy.script = Script(writer=lambda prompt, written, rng: "One.<|mine|>")
    assert end is not None
    session = await engines.policy.open(Prompt((Turn("user", "How much?"),)))
    drawn = await session.draw((), Draw(max_tokens=99, stops=Stops(token_ids=(end,)), seed=0))
    assert drawn.stop == end
