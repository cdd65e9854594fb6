"""What the README says of its picture and in its table is what the picture and the measurements say."""

import html
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

MEASURED_AS = {
    "`self_consistency`": "self-consistency",
    "`best_of_n` by likelihood (`--prm none`)": "best-of-N (likelihood)",
    "`best_of_n`": "best-of-N (PRM)",
    "`beam`": "beam",
    "a right answer among the n": "pass@N",
}
"""Rows of the README's table, and the columns of docs/reproduce.md that they are."""


def drawn() -> list[tuple[int, str, float]]:
    """The candidates of docs/tree.svg, from the top: depth, text, score."""
    svg = (ROOT / "docs" / "tree.svg").read_text(encoding="utf-8")
    cells = [html.unescape(cell).replace("\xa0", " ") for cell in re.findall(r"<text[^>]*>(.*?)</text>", svg)]
    found: list[tuple[int, str, float]] = []
    depth = 0
    for before, text, after in zip(cells, cells[1:], cells[2:], strict=False):
        depth = depth + 1 if before.startswith("│   ") else depth
        if before.startswith(("├── ", "└── ")) and re.fullmatch(r"\d\.\d{3}", after):
            found.append((depth, text.strip(), float(after)))
            depth = 0
    return found


def rows(document: str, beginning: str) -> list[list[str]]:
    """The table whose first line begins so, cell by cell."""
    lines = document[document.index(beginning) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not re.match(r"\|[ :]*-", line)]


def plain(cell: str) -> list[str]:
    """The numbers of a cell."""
    return re.findall(r"\d+\.\d", cell)


def test_the_picture_shows_what_the_readme_tells_of_it() -> None:
    tree = drawn()
    told = README[README.index("Above:") : README.index("## Ask it something")]
    first = [
        (text.removeprefix("Read row 1: ").removesuffix(" It has 3 digits."), score)
        for depth, text, score in tree
        if depth == 0
    ]
    right = [score for text, score in first if text == "Row 1 shows 534."]
    wrong = {text: score for text, score in first if text != "Row 1 shows 534."}
    assert len(right) == 2
    assert wrong == {"Row 1 shows 504.": 0.037, "Row 1 shows 544.": 0.012}
    assert all(f"{score:.3f}" in told for score in wrong.values())
    begins, ends = (
        next(place for place, (_, text, _) in enumerate(tree) if number in text) for number in ("504", "544")
    )
    followed = [score for depth, _, score in tree[begins + 1 : ends] if depth > 0]
    assert len(followed) > 3
    assert max(followed) <= 0.1
    assert "worth more than 0.1" in told


def test_the_table_has_the_figures_of_the_reproduction() -> None:
    reproduce = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    head, *measured = rows(reproduce, "| N | pass@N | beam |")
    columns = {name: {row[0]: plain(row[place]) for row in measured} for place, name in enumerate(head)}
    names, *told = rows(README, "| strategy | n = 1 |")
    sizes = [name.removeprefix("n = ") for name in names[1:]]
    table = {row[0]: dict(zip(sizes, map(plain, row[1:]), strict=True)) for row in told}
    greedy = table.pop("`greedy`")
    assert {name: columns[column] for name, column in MEASURED_AS.items()} == table
    assert plain(reproduce[reproduce.index("Greedy answers") :].splitlines()[0])[:3] == greedy["1"]


def test_what_the_readme_says_of_search_by_the_prm_is_in_the_reproduction() -> None:
    reproduce = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    found = {row[0]: plain(row[1]) for row in rows(reproduce, "| claim | ours")}
    told = README[README.index("Search by the PRM pays") :].split("\n\n")[0]
    for claim in ("above greedy", "above self-consistency at 8", "by the PRM above by likelihood"):
        mean, low, high = found[f"best-of-8 {claim}"]
        assert re.search(rf"by {re.escape(mean)} points\s\({re.escape(low)} to {re.escape(high)}\)", told), claim


@pytest.mark.parametrize(
    ("told", "page", "there"),
    [
        ("`auto` is level with `best_of_n` at 16 for 28 % of its tokens", "benchmarks.md", "for 28 % of the tokens"),
        ("4.77 times the searches a second", "benchmarks.md", "| 16, 64, Xeon | `auto` | 4.77 x"),
        ("from 65.2 to 71.0 %", "reproduce.md", "| DPO1 | `ce40cceb9224` | 71.0 %"),
        ("0.75 times the tokens", "benchmarks.md", "| `best_of_n` | 0.75 |"),
    ],
)
def test_a_figure_of_the_readme_stands_where_it_was_measured(told: str, page: str, there: str) -> None:
    assert told in " ".join(README.split())
    assert there in " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())
