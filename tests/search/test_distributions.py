"""What other distributions add: one that cannot be used is named with its distribution and the reason."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cos.prm import menu as prm_formats
from cos.search import grammars, strategies
from cos.search.errors import InputError
from cos.server.flags import load_settings

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install(group, target)``: a distribution "others" whose entry point of this group is ``target``."""

    def installed(group: str, target: str) -> None:
        about = tmp_path / "others-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n", encoding="utf-8")
        (about / "entry_points.txt").write_text(f"[{group}]\ntheirs = {target}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        for menu in (grammars, prm_formats, strategies):
            # Without what an earlier test has looked up.
            monkeypatch.setattr(menu, "third_party", menu.third_party.__wrapped__)

    return installed


MENUS = {"cos.grammars": grammars.menu, "cos.prms": prm_formats.menu, "cos.strategies": strategies.menu}


@pytest.mark.parametrize("group", MENUS)
@pytest.mark.parametrize(
    ("target", "reason"),
    [("nowhere_to_be_found:Theirs", "ModuleNotFoundError: No module named"), ("json:JSONDecoder", "it has no name")],
)
def test_one_that_cannot_be_used_is_named_and_so_is_the_fix(
    install: Install, group: str, target: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(group, target)
    with pytest.raises(InputError, match=f"'theirs' of the group {group}, which others adds, cannot be used: {reason}"):
        MENUS[group]()
    with pytest.raises(SystemExit) as ended:
        load_settings(["--policy", "scripted"])
    assert ended.value.code == 2
    assert "mend or uninstall others" in capsys.readouterr().err


def test_help_is_there_whatever_is_installed(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("cos.grammars", "nowhere_to_be_found:Theirs")
    with pytest.raises(SystemExit) as ended:
        load_settings(["--help"])
    assert not ended.value.code
    assert "--grammar" in capsys.readouterr().out


def test_two_of_a_name_are_refused_at_the_start(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("cos.grammars", "cos.search.grammars.paragraph:ParagraphGrammar")
    with pytest.raises(SystemExit):
        load_settings(["--policy", "scripted"])
    assert "two grammars are called 'paragraph'; uninstall one of them" in capsys.readouterr().err
