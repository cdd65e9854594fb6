"""Two models matched: the side that does not fit is named, and so is a format that nobody has."""

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from cos.engines.scripted import ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm import menu
from cos.prm.cos import CosPrm
from cos.prm.matching import match
from cos.prm.ports import Checkpoint, Judged, PrmFormat, Reader
from cos.search import distributions
from cos.search.errors import InputError
from cos.search.grammars.cos import COS_TOKENS, POLICY_TOKENS, CosGrammar
from cos.search.ports import ScorerSession
from cos.search.run import solve
from cos.search.scale import Scale
from cos.search.spec import SearchSpec
from cos.search.types import Question
from tests.prm.spy import Spy

POLICY_ONLY = ScriptedVocabulary(POLICY_TOKENS)
OTHER = ("<pad>", "<image>", *reversed(COS_TOKENS))


class Headed(PrmFormat):
    """A format of somebody else's that asks for a head."""

    name = "headed"
    ability = "head"
    scale = Scale(aggregation="mean")

    def __init__(self, reader: Reader, judged: Judged) -> None:
        self.judged = judged

    async def open(self, question: Question) -> ScorerSession:
        raise NotImplementedError


def added(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another distribution adds `Headed` by this name."""

    def installed(group: str) -> tuple[EntryPoint, ...]:
        return (EntryPoint(name, f"{__name__}:Headed", group),) if group == "cos.prms" else ()

    monkeypatch.setattr(distributions, "installed", installed)


def refusal(**formats: Any) -> InputError:
    """What `match` says against scripted models."""
    asked: dict[str, Any] = {"policy": ScriptedEngine(), "prm": Spy(), **formats}
    with pytest.raises(InputError) as error:
        match(**asked)
    return error.value


def test_the_side_that_does_not_fit_is_named() -> None:
    plain = ScriptedEngine(vocabulary=ScriptedVocabulary(["<pad>"]))
    assert refusal(policy=plain, grammar="cos").param == "policy"
    assert refusal(prm=Spy(POLICY_ONLY)).param == "prm"


def test_a_policy_alone_has_no_scorer() -> None:
    assert match(ScriptedEngine(vocabulary=POLICY_ONLY), None).scorer is None


def test_what_nobody_names_is_cos_with_the_suffixes_each_for_its_model() -> None:
    policy, spy = ScriptedEngine(), Spy()
    models = match(policy, spy, policy_suffix="Think.", prm_suffix="Judge.")
    assert models.policy is policy
    assert isinstance(models.grammar, CosGrammar)
    assert isinstance(models.scorer, CosPrm)
    assert models.question_suffix == "Think."
    named = match(policy, spy, grammar="cos", prm_format="cos")
    assert (type(named.grammar), type(named.scorer)) == (CosGrammar, CosPrm)


async def test_the_prms_suffix_stands_behind_its_question_and_no_other() -> None:
    spy = Spy()
    models = match(ScriptedEngine(), spy, policy_suffix="Think.", prm_suffix="Judge.")
    assert models.scorer is not None
    await models.scorer.open(Question("How many?"))
    assert [turn.text for turn in spy.prompts[0].turns] == ["How many?\nJudge."]


def test_a_name_that_nobody_has_is_refused_with_the_menu() -> None:
    error = refusal(prm_format="cosy")
    assert str(error) == "unknown PRM format 'cosy'; did you mean 'cos'? available: auto, " + ", ".join(
        sorted(menu.menu())
    ) + ("; or a file that ends in .yaml, see docs/models.md")
    assert error.param == "prm_format"
    assert refusal(grammar="cosy").param == "grammar"


def test_a_format_of_another_package_stands_in_the_menu_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    added(monkeypatch, "headed")
    assert menu.menu()["headed"] is Headed
    models = match(ScriptedEngine(), Spy(abilities=frozenset({"head"})), prm_format="headed")
    assert isinstance(models.scorer, Headed)
    assert models.scorer.judged.grammar is models.grammar


def test_a_model_that_cannot_be_asked_what_a_format_asks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    added(monkeypatch, "headed")
    error = refusal(prm_format="headed")
    assert "'headed'" in str(error)
    assert "labels" in str(error)
    assert error.param == "prm"
    assert "'cos'" in str(refusal(prm=Spy(abilities=frozenset())))


@pytest.mark.parametrize("name", ["cos", "auto"])
def test_two_formats_of_one_name_are_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    added(monkeypatch, name)
    if name != menu.AUTO:
        with pytest.raises(InputError, match=f"two PRM formats are called '{name}'"):
            menu.find(name)
    judged = Judged(vocabulary=POLICY_ONLY, grammar=CosGrammar(POLICY_ONLY))
    assert isinstance(menu.choose(menu.AUTO, Spy(), judged), CosPrm)
    assert Headed not in menu.menu().values()


CONFIG = {"architectures": ["Qwen2ForCausalLM"]}


def has_this_config(checkpoint: Checkpoint) -> bool:
    return checkpoint.config == CONFIG


def looks_for_what_is_not_there(checkpoint: Checkpoint) -> bool:
    return checkpoint.config["absent"]


def test_auto_is_the_format_that_recognises_the_checkpoint() -> None:
    models = match(ScriptedEngine(), Spy(config=CONFIG))
    assert isinstance(models.scorer, CosPrm)


def test_auto_refuses_a_checkpoint_that_no_format_recognises_and_says_what_to_do() -> None:
    stranger = Spy(vocabulary=ScriptedVocabulary(("<pad>",)), config=CONFIG, model="some/prm")
    error = refusal(prm=stranger)
    assert error.param == "prm_format"
    for told in ("some/prm", "its files name none that cos-serve knows", "--prm-format", "math_shepherd", "--prm none"):
        assert told in str(error)


def test_auto_refuses_a_checkpoint_that_two_formats_recognise(monkeypatch: pytest.MonkeyPatch) -> None:
    added(monkeypatch, "headed")
    monkeypatch.setattr(Headed, "recognises", staticmethod(has_this_config))
    assert "cos and headed might all be its format" in str(refusal(prm=Spy(config=CONFIG)))


def test_a_format_that_fails_to_look_at_a_checkpoint_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    added(monkeypatch, "headed")
    monkeypatch.setattr(Headed, "recognises", staticmethod(looks_for_what_is_not_there))
    assert isinstance(match(ScriptedEngine(), Spy(config=CONFIG)).scorer, CosPrm)
    assert "'headed' cannot tell whether it is the PRM's" in caplog.text


def test_an_ability_that_no_model_has_is_refused_where_its_format_is_written() -> None:
    with pytest.raises(
        ValueError, match="the ability of PRM format 'mistyped' is 'label'; there are labels, head, text"
    ):
        type("Mistyped", (Headed,), {"name": "mistyped", "ability": "label"})


async def test_models_of_different_vocabularies_search_as_well() -> None:
    bridged = match(ScriptedEngine(), ScriptedEngine(vocabulary=ScriptedVocabulary(OTHER)))
    shared = match(ScriptedEngine(), ScriptedEngine())
    spec = SearchSpec("beam", {"n": 4})
    one, other = [await solve(Question("?"), spec, models) for models in (bridged, shared)]
    assert (one.chain, one.value) == (other.chain, other.value)
