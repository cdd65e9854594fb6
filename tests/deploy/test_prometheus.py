"""Prometheus' configuration, recording rules and alerts, by promtool; and the runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.declared import declared
from tests.deploy.tools import program

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RUNBOOK = ROOT / "docs" / "runbook.md"
Json = dict[str, Any]


def rule_tests() -> list[Json]:
    return [test for file in (PROMETHEUS / "tests").glob("*.yml") for test in yaml.safe_load(file.read_text())["tests"]]


def rules_of(file: Path) -> list[Json]:
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def rules() -> list[Json]:
    return [rule for file in RULES for rule in rules_of(file)]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_configuration_and_every_rule() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    promtool("check", "rules", *map(str, RULES))


def test_every_alert_fires_when_it_has_to_and_is_silent_when_not() -> None:
    promtool("test", "rules", *map(str, sorted((PROMETHEUS / "tests").glob("*.yml"))))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_test_that_fires_it_and_one_that_does_not(alert: str) -> None:
    asked = [each for test in rule_tests() for each in test.get("alert_rule_test", ()) if each["alertname"] == alert]
    assert {bool(each["exp_alerts"]) for each in asked} == {True, False}


def test_every_recording_rule_has_a_test_of_its_value() -> None:
    asked = [each["expr"] for test in rule_tests() for each in test.get("promql_expr_test", ())]
    assert asked == [rule["record"] for file in RULES for rule in rules_of(file) if "record" in rule]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_how_bad_it_is_and_where_its_runbook_is(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["description"]) > 60
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_says_what_an_alert_means_what_to_look_at_and_what_to_do(alert: str) -> None:
    sections = re.split(r"^## ", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(f"{alert}\n")]
    for part in ("**It means**", "**Look at**", "**Do**"):
        assert part in section


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    told = re.findall(r"^## (Cos\w+)$", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert told == list(ALERTS)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_series_that_exist_and_for_this_job_alone(rule: Json) -> None:
    known, recorded = declared(), {each["record"] for each in rules() if "record" in each}
    for name, chosen in re.findall(r"([\w:]+)\{(.*?)\}", rule["expr"]):
        if name in recorded:
            continue
        assert 'job="cos-serve"' in chosen
        assert name in known or name == "up" or name.startswith("vllm:"), name
    assert set(re.findall(r"\bjob(?:_\w+)?:\w+:\w+", rule["expr"])) <= recorded
