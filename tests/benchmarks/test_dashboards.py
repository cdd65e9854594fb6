"""The parts of ``cos bench dashboards`` that need no engine: variables, counts, restarts, and the picture."""

import textwrap
from pathlib import Path
from typing import cast

import pytest

from cos.benchmarks.boards import DEPLOY, Coverage, Queried, Window, panels, rules
from cos.benchmarks.dashboards import facts
from cos.benchmarks.latency_picture import LatencyCurves, draw
from cos.benchmarks.prometheus import Prometheus, Series
from cos.benchmarks.supervisor import Outage, supervised
from cos.clients.cli import main
from cos.search.errors import CosError, InputError

WINDOW = Window(rate_s=30, range_s=600)
FLAKY = """
import pathlib, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = HTTPServer(("127.0.0.1", int(sys.argv[-1])), Handler)
lives = pathlib.Path(__file__).with_name("lives")
left = int(lives.read_text())
lives.write_text(str(left - 1))
if left:
    threading.Timer(0.5, server.shutdown).start()
server.serve_forever()
sys.exit(1)
"""


class Answers:
    """A Prometheus that has an answer to some expressions."""

    def __init__(self, known: set[str]) -> None:
        self.known = known

    async def query(self, expr: str) -> list[Series]:
        return [Series({}, [(0.0, 1.0)])] if expr in self.known else []


def test_every_variable_of_the_dashboards_is_filled_in_and_repeated_panels_count_for_each_engine() -> None:
    found = panels(DEPLOY, WINDOW)
    assert all("$" not in each.name + "".join(each.expressions) for each in found)
    names = {each.name for each in found}
    assert {"Engines: policy: tokens a second", "Engines: prm: tokens a second"} <= names
    assert len(names) == len(found)


def test_a_variable_that_nobody_knows_is_named() -> None:
    with pytest.raises(InputError, match=r"\$namespace"):
        WINDOW.fill('up{namespace="$namespace"}', "policy")


def test_a_folder_without_dashboards_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dashboards in"):
        panels(tmp_path, WINDOW)


def test_an_alert_is_asked_so_that_it_has_data_though_it_does_not_fire() -> None:
    alerts = {each.name: each.expressions[0] for each in rules(DEPLOY) if each.kind == "alert"}
    assert alerts["CosEngineFrozen"] == 'cos_engine_up{job="cos-serve"} == bool 0'
    assert all(" bool " in expr for expr in alerts.values())


async def test_a_panel_counts_once_all_of_its_queries_had_data_and_is_named_while_one_has_none() -> None:
    coverage = Coverage(
        [Queried("panel", "Both", ("a", "b")), Queried("panel", "One", ("a",)), Queried("alert", "Alert", ("c",))]
    )
    await coverage.look(cast(Prometheus, Answers({"a"})))
    assert facts(coverage)["empty"] == ["Both", "Alert"]
    await coverage.look(cast(Prometheus, Answers({"a", "b"})))
    counted = facts(coverage)
    assert (counted["panels"], counted["with_data"], counted["allowed_empty"]) == (2, 2, 0)
    assert (counted["alerts"], counted["alerts_with_data"]) == (1, 0)


async def test_a_server_that_ends_with_1_is_started_again_and_its_outage_is_known(tmp_path: Path) -> None:
    (tmp_path / "flaky.py").write_text(textwrap.dedent(FLAKY))
    (tmp_path / "lives").write_text("1")
    async with supervised(["flaky"], "/ready", {"PYTHONPATH": str(tmp_path)}) as server:
        await server.restarted(1)
        (outage,) = server.outages
        assert outage.ended < outage.ready
        with pytest.raises(CosError, match="no engine process"):
            await server.engines()
        server.process.kill()
        with pytest.raises(CosError, match="status -9"):
            await server.restarted(2)


def test_the_latency_board_is_drawn_with_its_outage(tmp_path: Path) -> None:
    rising = [(minute / 10, 0.5 + minute / 50) for minute in range(50) if not 20 < minute < 30]
    curves = {quantile: {"beam": rising, "greedy": rising[:-5]} for quantile in ("p50", "p95", "p99")}
    picture = tmp_path / "latency.png"
    draw(picture, LatencyCurves(curves, 1000.0, 5.0, [Outage(1120.0, 1180.0)], 30))
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_picture_that_cannot_be_written_is_told_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "dashboards", "--picture", "/nowhere/latency.png"])
    assert ended.value.code == 2
    assert "--picture /nowhere/latency.png" in capsys.readouterr().err
