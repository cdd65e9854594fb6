"""A PRM format in a file of a user's own: read by its name, and refused by the file, the key and what to do."""

from pathlib import Path

import pytest

from cos.prm import dialogue, menu
from cos.search.errors import InputError
from tests.prm.published import EXAMPLES

WORKS = 'steps: turns\ngood: "+"\nbad: "-"\n'


def test_a_file_is_a_format_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "my_prm.yaml"
    path.write_text(WORKS + "threshold: 0.3\naggregation: last\n", "utf-8")
    found = menu.find(str(path))
    assert found.name == str(path)
    assert found.ability == "labels"
    assert (found.scale.threshold, found.scale.aggregation) == (0.3, "last")
    assert found.sees_pictures
    path.write_text(WORKS + "pictures: none\n", "utf-8")
    assert not menu.find(str(path)).sees_pictures


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_format(path: Path) -> None:
    assert menu.find(str(path)).name == str(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps: turns\ngood: Yes\nbad: 'No'\n", 'good: .*put it in quotes: good: "Yes"'),
        ("steps: turns\ngood: 'Yes'\nbad: 0\n", 'bad: .*put it in quotes: bad: "0"'),
        (f"{WORKS}sytem: hello\n", r"sytem: there is no such key; did you mean system\?"),
        (f"{WORKS}zzz: hello\n", "zzz: there is no such key; there are aggregation, answer, bad"),
        ("steps: turns\n", "good: it is missing; add it; bad: it is missing; add it"),
        ("steps: [", "it is no YAML"),
        ("- one\n", "write lines such as"),
        ("", "write lines such as"),
        (f"{WORKS}good: '1'\n", "good: it is given twice; keep one"),
        ("steps: turns\ngood: '+'\nbad: '+'\n", r"bad: it is '\+', as good is; the two labels must differ"),
        (f"{WORKS}tag: ки\n", "tag: it says nothing where steps are 'turns'; leave it out"),
        (f"{WORKS}read: before_tag\n", "read: it says nothing where steps are 'turns'; leave it out"),
        (WORKS.replace("turns", "tags"), "tag: it is missing; where steps are 'tags', say what stands behind each"),
        (WORKS.replace("turns", "rounds"), "steps: Input should be 'turns' or 'tags' .*'rounds'"),
        (f"{WORKS}question: How much\n", r"question: write \{question\} in it once"),
        (f"{WORKS}step: '{{number}}'\n", r"step: write \{step\} in it once"),
        (f"{WORKS}threshold: 2\n", "threshold: Input should be less than or equal to 1 .*2"),
        (f"{WORKS}aggregation: average\n", "aggregation: Input should be 'cos', 'mean', 'min', 'prod' or 'last'"),
        (
            f"{WORKS.replace('turns', 'tags')}tag: x\ntext_in: no_turn\nsystem: Judge.\n",
            "system: without a chat template there is no system message; leave it out",
        ),
        (
            f"{WORKS.replace('turns', 'tags')}tag: x\ntext_in: no_turn\n",
            "pictures: without a chat template there is no place for them; give pictures: none",
        ),
    ],
)
def test_what_is_wrong_is_told_by_file_key_and_fix(text: str, told: str) -> None:
    with pytest.raises(InputError, match=rf"(?s)PRM format my_prm\.yaml: .*{told}") as error:
        dialogue.parsed(text, "my_prm.yaml")
    assert error.value.param == "prm_format"


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: there is no such file in /.*; give its path"):
        menu.find("nowhere.yaml")
    (tmp_path / "raw.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is not UTF-8 text; save it as UTF-8"):
        menu.find(str(tmp_path / "raw.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match="it cannot be read"):
        menu.find(str(tmp_path / "folder.yaml"))


def test_an_unknown_name_tells_that_a_file_would_do() -> None:
    with pytest.raises(InputError, match=r"unknown PRM format 'dialogue'; available: .*or a file that ends in \.yaml"):
        menu.find("dialogue")
