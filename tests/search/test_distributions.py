"""What another distribution adds by an entry point: found by its name, refused in words where it cannot be used, and in
nobody's way who does not ask for it."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cos.engines.scripted import ScriptedEngine
from cos.prm.matching import match
from cos.search import distributions
from cos.search.errors import InputError
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.strategies import resolve
from cos.search.types import Question
from cos.server.flags import load_settings

MODULE = """
from cos.prm.ports import PrmFormat
from cos.search.grammar import Grammar
from cos.search.ports import Stops
from cos.search.scale import Scale
from cos.search.strategies import Params, Strategy


class Whole(Grammar):
    name = "added"
    stops = Stops(strings=(";",))

    def __init__(self, vocabulary):
        pass

    def read(self, drawn):
        pass

    def spans(self, piece, *, first):
        pass


class Spanless(Grammar):
    name = "added"
    stops = Stops()

    def read(self, drawn):
        pass


class Nameless(Whole):
    name = "otherwise"


class Unstopped(Whole):
    stops = ";"


class Unscaled(PrmFormat):
    name = "added"
    ability = "labels"

    def __init__(self, reader, judged):
        pass

    async def open(self, question):
        pass


class Judging(Unscaled):
    scale = Scale(aggregation="mean")


class Mistyped:
    name = "added"
    ability = "label"
    scale = Scale(aggregation="mean")

    def open(self, question):
        pass


class Searching(Strategy):
    name = "added"
    aliases = ("also_added",)
    params = Params
    needs_scores = False

    async def run(self, search, params):
        return (await search.sample(1, scored=False))[0]


class Idle(Strategy):
    name = "added"
    aliases = ()
    params = Params
    needs_scores = False


class Twin(Searching):
    aliases = ("beam_search",)


class Raising(Searching):
    def __init__(self):
        raise RuntimeError("not today")
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution ``theirs`` with entry points of one group."""

    def add(group: str, **points: str) -> None:
        info = tmp_path / "theirs-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        (tmp_path / "theirs_of_a_test.py").write_text(MODULE, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        distributions.installed.cache_clear()

    yield add
    distributions.installed.cache_clear()


GRAMMARS = {
    "not_there:Lines": "it cannot be loaded (ModuleNotFoundError: No module named 'not_there')",
    "theirs_of_a_test:Lines": "(AttributeError: module 'theirs_of_a_test' has no attribute 'Lines')",
    "theirs_of_a_test:Spanless": "it has no 'spans'",
    "theirs_of_a_test:Nameless": "its `name` is 'otherwise'; both must be the same",
    "theirs_of_a_test:Unstopped": "its `stops` is ';'; it must be a cos.search.ports.Stops",
}
FORMATS = {
    "not_there:Judge": "it cannot be loaded (ModuleNotFoundError: No module named 'not_there')",
    "theirs_of_a_test:Unscaled": "its `scale` is None; it must be a cos.search.scale.Scale",
    "theirs_of_a_test:Mistyped": "its `ability` is 'label'; it must be 'head', 'labels' or 'text'",
}
STRATEGIES = {
    "not_there:Search": "it cannot be loaded (ModuleNotFoundError: No module named 'not_there')",
    "theirs_of_a_test:Idle": "it has no 'run'",
    "theirs_of_a_test:Twin": "two strategies are called 'beam_search'",
    "theirs_of_a_test:Raising": "it cannot be made (RuntimeError: not today)",
    "theirs_of_a_test:Whole": "it has no 'aliases' and no 'params' and no 'needs_scores' and no 'run'",
}


def ask(group: str) -> None:
    """Asks for what a test has added."""
    if group == "cos.grammars":
        match(ScriptedEngine(), None, grammar="added")
    elif group == "cos.prms":
        match(ScriptedEngine(), ScriptedEngine(), prm_format="added")
    else:
        resolve("added")


def cases(values: dict[str, str], group: str) -> list[tuple[str, str, str]]:
    return [(group, value, reason) for value, reason in values.items()]


@pytest.mark.parametrize(
    ("group", "value", "reason"),
    [*cases(GRAMMARS, "cos.grammars"), *cases(FORMATS, "cos.prms"), *cases(STRATEGIES, "cos.strategies")],
)
async def test_an_entry_point_that_cannot_be_used_is_refused_in_words_and_in_nobodys_way(
    install: Install, group: str, value: str, reason: str
) -> None:
    install(group, added=value)
    with pytest.raises(InputError) as error:
        ask(group)
    for part in ("'added'", repr(value), "'theirs'", group, reason):
        assert part in str(error.value)
    models = match(ScriptedEngine(), ScriptedEngine())
    assert (await solve(Question("How much?"), SearchSpec("beam", {"n": 2}), models)).is_complete


@pytest.mark.parametrize(
    ("group", "good", "bad"),
    [
        ("cos.grammars", "theirs_of_a_test:Whole", "not_there:Lines"),
        ("cos.prms", "theirs_of_a_test:Judging", "not_there:Judge"),
        ("cos.strategies", "theirs_of_a_test:Searching", "not_there:Search"),
    ],
)
def test_lists_have_what_can_be_used_and_log_what_cannot(
    install: Install, caplog: pytest.LogCaptureFixture, group: str, good: str, bad: str
) -> None:
    from cos.prm import menu as formats
    from cos.search import grammars, strategies

    install(group, added=good, broken=bad)
    ask(group)
    assert not caplog.records
    listed = {"cos.grammars": grammars, "cos.prms": formats, "cos.strategies": strategies}[group].menu()
    assert "added" in listed
    assert "broken" not in listed
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "'broken'" in record.getMessage()


@pytest.mark.parametrize(
    ("group", "name"), [("cos.grammars", "cos"), ("cos.prms", "math_shepherd"), ("cos.strategies", "beam")]
)
def test_a_name_that_two_have_is_refused_to_whoever_asks_for_it(install: Install, group: str, name: str) -> None:
    install(group, **{name: "theirs_of_a_test:Whole"})
    asked = {
        "cos.grammars": lambda: match(ScriptedEngine(), None, grammar=name),
        "cos.prms": lambda: match(ScriptedEngine(), ScriptedEngine(), prm_format=name),
        "cos.strategies": lambda: resolve(name),
    }
    with pytest.raises(InputError, match=f"are called '{name}': uninstall or rename that of the distribution 'theirs'"):
        asked[group]()


def test_a_strategy_of_another_distribution_is_found_by_its_alias(install: Install) -> None:
    install("cos.strategies", added="theirs_of_a_test:Searching")
    assert resolve("also-added").name == "added"


def test_a_server_starts_with_a_broken_grammar_installed_but_not_with_one_asked_for(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("cos.grammars", added="not_there:Lines")
    assert load_settings(["--policy", "scripted"]).grammar == "auto"
    with pytest.raises(SystemExit) as ended:
        load_settings(["--policy", "scripted", "--grammar", "added"])
    assert ended.value.code == 2
    assert "No module named 'not_there'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        load_settings(["--help"])
    assert not ended.value.code
