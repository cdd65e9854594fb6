"""Pages of the docs: links lead somewhere, pictures are the drawn ones, and the strategies' table is the code's."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from cos.search.strategies import BUILT_IN

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md")))
STRATEGIES = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
RUN_BY = {
    "README.md": "tests/real/test_main_job.py",
    "clients.md": "tests/server/test_clients.py",
    "deployment.md": "tests/deploy/test_deployment_docs.py",
    "models.md": "tests/clients/test_models_docs.py",
    "quickstart.md": "tests/real/test_main_job.py",
    "traces.md": "tests/server/test_traces.py",
}
"""Pages with Python, and pages with commands that all can run, and the tests that run what stands there. Of all other
commands `tests/clients/test_documented_commands.py` says whether they exist."""
DRAWN: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "concepts" / "draw.py"))


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()#]", "", code[0]), text)


def anchors(page: Path) -> set[str]:
    """What a link may name in a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str]]:
    """Every link of a page to another file or to a heading, and every picture."""
    found = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))]
    return [(page, target) for page, target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda value: getattr(value, "name", value))
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    assert file.exists()
    if anchor and file.suffix == ".md":
        assert anchor in anchors(file)


@pytest.mark.parametrize("name", sorted(DRAWN["PICTURES"]))
def test_a_picture_of_the_concepts_is_what_its_script_draws(name: str) -> None:
    assert (ROOT / "docs" / "concepts" / f"{name}.svg").read_text(encoding="utf-8") == DRAWN["PICTURES"][name]().svg()


def to_run(page: Path) -> list[str]:
    """Lines of a page's shell and Python blocks, without those that install something."""
    blocks = re.findall(r"^```(?:sh|python)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if not re.match("uv sync|pip install", line)]


def test_what_a_page_shows_to_run_is_run_by_a_test() -> None:
    assert {page.name for page in PAGES if to_run(page)} == set(RUN_BY)
    for page, test in RUN_BY.items():
        assert page in (ROOT / test).read_text(encoding="utf-8"), page


def test_every_page_can_be_found_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page.resolve())
        targets = re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", prose(page))
        waiting += [file for name in targets if (file := (page.parent / name).resolve()) not in reached]
    assert {page.resolve() for page in PAGES} - reached == set()


@pytest.mark.parametrize("strategy", BUILT_IN, ids=lambda strategy: strategy.name)
def test_a_strategy_stands_in_the_table_with_its_aliases_and_parameters(strategy: Any) -> None:
    table = STRATEGIES[STRATEGIES.index("| name (aliases) |") :].split("\n\n")[0]
    row = next(line for line in table.splitlines() if line.startswith(f"| `{strategy.name}`"))
    name, parameters = (cell.strip() for cell in row.strip("|").split("|")[:2])
    assert re.findall(r"`(\w+)`", name) == [strategy.name, *strategy.aliases]
    given = dict(re.findall(r"`(\w+)` = ([\w./ ]+)", parameters))
    fields = strategy.params.model_fields
    assert list(given) == list(fields)
    for parameter, default in given.items():
        expected = fields[parameter].default
        # A width that follows from n is told by its rule.
        assert default == str(expected).lower() if expected is not None else default.startswith("n / "), parameter


@pytest.mark.parametrize("strategy", BUILT_IN, ids=lambda strategy: strategy.name)
def test_every_strategy_was_measured_or_is_said_not_to_be(strategy: Any) -> None:
    measured = STRATEGIES[STRATEGIES.index("## Measured") : STRATEGIES.index("## What all of them have")]
    assert f"`{strategy.name}`" in measured
