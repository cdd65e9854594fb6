"""docs/models.md, followed to the letter in an environment without vLLM, torch or a server."""

import json
import re
import shlex
from pathlib import Path

import pytest

from cos.clients.cli import main
from cos.prm import menu
from cos.prm.wording import Wording
from cos.search import grammars
from tests.clients.bare import Bare

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
STRANGERS = Path(__file__).parent / "models_of_a_stranger"


def files() -> dict[str, str]:
    """What the page says to save, by the name that it says last before."""
    found: dict[str, str] = {}
    before = ""
    for text, language, block in re.findall(r"(.*?)^```(\w*)\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE):
        before += text
        if language not in ("", "text"):
            found[re.findall(r"`(\w+\.(?:py|toml|yaml))`", before)[-1]] = block
    return found


@pytest.mark.parametrize("name", [*grammars.menu(), *menu.menu()])
def test_every_grammar_and_format_has_its_row(name: str) -> None:
    assert f"\n| `{name}` | " in DOCS


def test_the_page_has_its_files_and_a_package() -> None:
    assert sorted(files()) == [
        "check_bullets.py",
        "cos_bullets.py",
        "cos_one_zero.py",
        "cos_three_way.py",
        "my_prm.yaml",
        "pyproject.toml",
        "try_bullets.py",
        "try_one_zero.py",
    ]


@pytest.mark.parametrize("name", ["bullets", "one_zero"])
def test_the_page_shows_the_examples_as_they_are(name: str) -> None:
    example = ROOT / "examples" / name / f"cos_{name}.py"
    assert files()[example.name] == example.read_text(encoding="utf-8")


def test_the_environment_has_neither_vllm_nor_torch(bare: Bare) -> None:
    for module in ("vllm", "torch", "transformers", "fastapi"):
        assert f"No module named {module!r}" in bare.python("-c", f"import {module}").stderr


def test_what_the_page_says_to_save_runs_as_it_says(bare: Bare, tmp_path: Path) -> None:
    for name, text in files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = [line for line in DOCS.splitlines() if line.startswith("bin/python ")]
    checked, first, second = (bare.python(*shlex.split(line)[1:], cwd=tmp_path) for line in commands)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout == "read and spans agree\n"
    assert first.returncode == 0, first.stderr
    assert [line.split()[0] for line in first.stdout.splitlines()] == ["step", "step", "step", "answer"]
    assert second.returncode == 0, second.stderr
    assert "Is this right (1) or wrong (0)?" in second.stdout
    assert re.fullmatch(r"chain 0\.\d\d", second.stdout.splitlines()[-1])


def test_the_prm_that_the_page_words_in_yaml_judges_a_search_by_the_command_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = [line for line in DOCS.splitlines() if line.startswith("cos solve ") and "my_prm.yaml" in line]
    (tmp_path / "my_prm.yaml").write_text(files()["my_prm.yaml"], encoding="utf-8")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(command)[1:], "--json"])
    assert not ended.value.code
    reply = json.loads(capsys.readouterr().out)
    assert reply["answer"]
    assert "was not shown" not in str(reply["warnings"])


@pytest.mark.parametrize("key", Wording.model_fields)
def test_the_page_has_every_key_of_a_file(key: str) -> None:
    rows = [line.split("|")[1] for line in DOCS.splitlines() if line.startswith("| `")]
    assert any(f"`{key}`" in row for row in rows)


def test_a_file_without_a_yaml_library_tells_what_to_install(bare: Bare) -> None:
    asked = ("solve", "examples/ledger.png", "?", "--policy", "scripted", "--prm-format", "examples/prms/yes_no.yaml")
    done = bare.cos(*asked)
    assert done.returncode == 2
    assert "a PRM format in a YAML file needs the package 'yaml'" in " ".join(done.stderr.split())


def test_a_package_as_the_page_has_it_is_used_by_the_command_of_the_page(bare: Bare, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
    bare.install(folder)
    lines = [line for line in DOCS.splitlines() if line.startswith("bin/cos solve")]
    assert len(lines) == 2
    for line in lines:
        done = bare.cos(*shlex.split(line)[1:], cwd=ROOT / "docs")
        assert done.returncode == 0, done.stderr
        assert "Answer: " in done.stdout


def test_models_that_somebody_else_made_from_the_page_work_at_once(bare: Bare) -> None:
    """Two grammars with named parts, formats of a head and of three labels, by two who had the page alone."""
    tried = bare.python("try_both.py", cwd=STRANGERS)
    assert tried.returncode == 0, tried.stderr
    assert [line.split()[:2] for line in tried.stdout.splitlines()] == [
        [strategy, "answer"] for strategy in ("beam", "best_of_n", "auto", "particle") * 2
    ]
    bare.install(STRANGERS)
    asked = ("solve", "examples/ledger.png", "How much is it?", "--policy", "scripted")
    for grammar, prm_format in (("look_think", "judge_head"), ("qa_lines", "three_way"), ("qa_lines", "math_shepherd")):
        done = bare.cos(*asked, "--grammar", grammar, "--prm-format", prm_format)
        assert done.returncode == 0, done.stderr
        assert "Answer: " in done.stdout


def test_a_file_that_was_left_out_of_the_package_is_told_and_stops_nothing_else(bare: Bare, tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    for name, text in files().items():
        left_out = text.replace(', "cos_three_way.py"]', "]")
        (folder / name).write_text(left_out, encoding="utf-8")
    bare.install(folder)
    asked = ("solve", "examples/ledger.png", "How much is it?", "--policy", "scripted")
    assert "Answer: " in bare.cos(*asked).stdout
    done = bare.cos(*asked, "--prm-format", "three_way")
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "three_way = 'cos_three_way:ThreeWay'" in told
    assert "'my-models'" in told
    assert "No module named 'cos_three_way'" in told
