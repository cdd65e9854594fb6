"""What the README says of its picture and in its table is what the picture and the measurements say."""

import html
import re
from pathlib import Path

import pytest

from cos.search.strategies import BUILT_IN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

COLUMNS = {
    "`self_consistency`": "self-consistency",
    "`best_of_n`, `--prm none`": "best-of-N (likelihood)",
    "`best_of_n`": "best-of-N (PRM)",
    "`beam`": "beam",
}
"""Strategies of the README's table, and the columns of docs/reproduce.md where they were measured."""


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


def one_line(page: str) -> str:
    """A page of docs/ without line breaks."""
    return " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())


def results() -> dict[tuple[str, int | None], list[str]]:
    """The README's table: strategy and n, then its cells from the tokens on."""
    found: dict[tuple[str, int | None], list[str]] = {}
    for row in rows(README, "| strategy | what it does |")[1:]:
        n = re.search(r", n = (\d+)", row[0])
        found[re.sub(r", n = \d+", "", row[0]), int(n[1]) if n else None] = row[2:]
    return found


def test_it_fits_on_two_screens() -> None:
    assert len(README.splitlines()) <= 120


def test_the_picture_shows_what_the_readme_tells_of_it() -> None:
    tree = drawn()
    caption = " ".join(README[README.index("The question is:") :].split("\n\n")[0].split())
    first = [(text.removeprefix("Read row 1: ").split(".")[0], score) for depth, text, score in tree if depth == 0]
    right = [score for text, score in first if text == "Row 1 shows 534"]
    wrong = {text: score for text, score in first if text != "Row 1 shows 534"}
    assert len(right) == 2
    assert "534 twice, as 504 once and as 544 once" in caption
    assert wrong == {"Row 1 shows 504": 0.037, "Row 1 shows 544": 0.012}
    assert all(f"{score:.3f}" in caption for score in wrong.values())
    begins, ends = (
        next(place for place, (_, text, _) in enumerate(tree) if number in text) for number in ("504", "544")
    )
    followed = [score for depth, _, score in tree[begins + 1 : ends] if depth > 0]
    assert len(followed) > 3
    assert max(followed) <= 0.1
    assert "None of its later steps scored above 0.1" in caption


def test_the_table_has_the_accuracies_of_the_reproduction() -> None:
    reproduce = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    head, *measured = rows(reproduce, "| N | pass@N | beam |")
    columns = {name: {row[0]: plain(row[place]) for row in measured} for place, name in enumerate(head)}
    table = results()
    assert plain(table.pop(("`greedy`", None))[1]) == plain(reproduce[reproduce.index("Greedy answers") :])[:3]
    of_auto = one_line("benchmarks.md").partition("`auto`, n = 16: right answers | ")[2]
    assert plain(table.pop(("`auto`", 16))[1]) == plain(of_auto)[:3]
    assert len(table) == 6
    for (name, n), (_, accuracy) in table.items():
        assert plain(accuracy) == columns[COLUMNS[name]][str(n)], (name, n)


def test_the_table_has_the_tokens_that_were_measured() -> None:
    drawn_chains = re.search(r"one pool of 32 chains a problem \(([\d,]+) tokens", one_line("reproduce.md"))
    of_auto = re.search(r"`auto`, n = 16: tokens a question \| ([\d,]+) \|", one_line("benchmarks.md"))
    assert drawn_chains is not None
    assert of_auto is not None
    a_chain = int(drawn_chains[1].replace(",", "")) / 32 / 1000
    a_search = int(of_auto[1].replace(",", ""))
    for (name, n), (tokens, _) in results().items():
        expected = a_search if name == "`auto`" else a_chain * (n or 1)
        assert int(tokens.replace(",", "")) == round(expected, -2), (name, n)
    assert f"wrote {a_search / a_chain:.1f} times as many" in " ".join(README.split())


@pytest.mark.parametrize(
    ("told", "page", "there"),
    [
        ("by 9.6 points (7.6 to 11.7)", "reproduce.md", "| best-of-8 above greedy | +9.6 (+7.6 to +11.7) |"),
    ],
)
def test_a_figure_of_the_readme_stands_where_it_was_measured(told: str, page: str, there: str) -> None:
    assert told in " ".join(README.split())
    assert there in one_line(page)


def test_it_counts_the_strategies_there_are() -> None:
    assert f"{len(BUILT_IN)} search strategies" in README
