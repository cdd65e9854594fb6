"""The dashboards as files: what Grafana needs, and what a reader needs."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.declared import LABELS_OF_PROMETHEUS, declared

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
UNITS = {"s", "short", "reqps", "percentunit", "bytes"}
Json = dict[str, Any]


def boards() -> list[Json]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in FILES]


def panels() -> Iterator[tuple[Json, Json]]:
    """Every panel with queries, and its board."""
    for board in boards():
        yield from ((board, panel) for panel in board["panels"] if panel["type"] not in ("row", "text"))


PANELS = [pytest.param(board, panel, id=f"{board['uid']}: {panel['title']}") for board, panel in panels()]


def test_the_committed_dashboards_are_what_their_source_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(GRAFANA / "builder"), str(tmp_path)], check=True)
    made = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    told = "python deploy/grafana/builder writes them again"
    assert made == {file.name: file.read_text(encoding="utf-8") for file in FILES}, told


def test_there_are_four_boards_each_with_its_own_uid_and_title() -> None:
    titles = {board["title"].removeprefix("cos-serve: ") for board in boards()}
    assert titles == {"Search latency", "Search economics", "Engines", "Traffic and guarantees"}
    assert len({board["uid"] for board in boards()}) == len(FILES)
    assert {file.stem for file in FILES} == {board["uid"] for board in boards()}


@pytest.mark.parametrize("board", boards(), ids=lambda board: board["uid"])
def test_a_board_lets_its_reader_choose_and_asks_whom_he_chose(board: Json) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert {"instance", "engine" if board["uid"] == "cos-engines" else "strategy"} <= set(variables)
    text = json.dumps(board)
    assert all(f"${name}" in text or f"${{{name}}}" in text for name in variables)


@pytest.mark.parametrize("board", boards(), ids=lambda board: board["uid"])
def test_no_panel_lies_on_another_and_none_has_the_title_of_another(board: Json) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_says_what_it_shows_in_words_and_in_a_unit(board: Json, panel: Json) -> None:
    assert panel["title"]
    assert len(panel["description"]) > 60, "say what it tells and what to do when it looks odd"
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["legendFormat"]
        assert target["datasource"] == panel["datasource"]


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_fixes_no_interval_and_no_server(board: Json, panel: Json) -> None:
    for target in panel["targets"]:
        assert set(re.findall(r"\[(.*?)\]", target["expr"])) <= {"$__rate_interval", "$__range"}
        assert all('instance=~"$instance"' in chosen for chosen in re.findall(r"\w\{(.*?)\}", target["expr"]))


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_asks_for_metrics_and_labels_that_the_server_declares(board: Json, panel: Json) -> None:
    known = declared()
    for target in panel["targets"]:
        for name, chosen in re.findall(r"([\w:]+)\{(.*?)\}", target["expr"]):
            if name.startswith("vllm:"):
                continue  # A real server's own are compared in tests/real.
            assert name in known, name
            labels = set(re.findall(r"(\w+)=", chosen)) | _summed_up_to(target["expr"])
            assert labels <= known[name] | LABELS_OF_PROMETHEUS | {"le"}, name


def _summed_up_to(expr: str) -> set[str]:
    """Labels that a whole expression is summed up to, where it is of one metric only."""
    if len(set(re.findall(r"([\w:]+)\{", expr))) > 1:
        return set()
    return {label for group in re.findall(r"by \((.*?)\)", expr) for label in group.split(", ")}


@pytest.mark.parametrize("title", ["Time to answer by strategy, p95", "Duration of a request, p95 by endpoint"])
def test_latency_shows_single_searches_as_exemplars(title: str) -> None:
    (panel,) = [panel for _, panel in panels() if panel["title"] == title]
    assert all(target["exemplar"] for target in panel["targets"])


def test_grafana_is_given_the_boards_and_a_datasource_that_never_changes_its_uid() -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    providers = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "cos.yml").read_text())
    assert [source["uid"] for source in sources["datasources"]] == ["cos-prometheus"]
    assert providers["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"
