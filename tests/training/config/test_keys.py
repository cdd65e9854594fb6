"""What a recipe can be told, as the docs and ``cos train keys`` tell it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cos.search.errors import InputError
from cos.training.cli import STAGES, app
from cos.training.config.key_table import SOURCES, as_markdown, key_tables, tables_of

PAGE = Path(__file__).parents[3] / "docs" / "training.md"


def test_the_page_has_every_key_as_the_code_has_it() -> None:
    """Where it has not: ``cos train keys --markdown`` prints what is to stand there."""
    assert as_markdown(key_tables()) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_a_table_and_every_key_a_meaning(stage: str) -> None:
    tables = tables_of(stage)
    assert tables[0].name == stage
    assert all(row.meaning and row.default for table in tables for row in table.rows)


def test_every_source_is_a_keys() -> None:
    known = {(table.name, row.name) for table in key_tables() for row in table.rows}
    assert {(table, key) for table, sources in SOURCES.items() for key in sources} <= known


def test_a_stages_tables_hold_its_sections() -> None:
    assert {"dpo", "every stage that trains", "preferences", "lora"} <= {table.name for table in tables_of("dpo")}
    shown = CliRunner().invoke(app, ["keys", "label"])
    assert shown.exit_code == 0
    assert "timeout_s" in shown.output


def test_a_stage_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="there is no stage 'dpoo'; there are tokens, sight, sft"):
        tables_of("dpoo")
