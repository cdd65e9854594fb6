"""The reply to a scrape: several registries as one, in both formats, whatever fails."""

import logging
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.registry import Collector

from cos.server.exposition import Exposition, Source

ODD_VERSIONS = ("abc", "1.x", "1..0", "1.0.0-rc1", "-", "²", "9" * 5_000)
OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}


def sources(*registries: CollectorRegistry) -> list[Source]:
    names = ("policy", "prm", "server")
    return [Source(name, registry, {"cos_engine": name}) for name, registry in zip(names, registries, strict=False)]


def engine_registries() -> list[CollectorRegistry]:
    """As two engines have them: the same families in both."""
    registries = [CollectorRegistry(), CollectorRegistry()]
    for registry in registries:
        Counter("vllm:tokens", "Tokens.", ["engine"], registry=registry).labels("0").inc(3)
        seconds = Histogram("vllm:seconds", "Seconds.", ["engine"], registry=registry, buckets=(1, 2)).labels("0")
        seconds.observe(1, {"request_id": "a"})
    return registries


def test_both_engines_series_are_told_apart_by_a_label() -> None:
    text, _ = Exposition(sources(*engine_registries()), lambda source: None).render("")
    lines = text.decode().splitlines()
    assert [line for line in lines if line.startswith("# TYPE")] == [
        "# TYPE vllm:tokens_total counter",
        "# TYPE vllm:seconds histogram",
    ]
    assert 'vllm:tokens_total{cos_engine="policy",engine="0"} 3.0' in lines
    assert 'vllm:tokens_total{cos_engine="prm",engine="0"} 3.0' in lines
    assert len([line for line in lines if line.startswith("vllm:seconds_bucket")]) == 6


@pytest.mark.parametrize(
    "accept",
    [
        f"{kind}; version={version}"
        for kind in ("application/openmetrics-text", "text/plain")
        for version in ODD_VERSIONS
    ],
)
def test_a_version_that_is_none_gets_the_text_format(accept: str) -> None:
    text, media_type = Exposition(sources(*engine_registries()), lambda source: None).render(accept)
    assert media_type.startswith("text/plain; version=0.0.4")
    assert b"vllm:tokens_total" in text


def test_what_several_registries_have_is_valid_openmetrics_with_its_exemplars() -> None:
    text, _ = Exposition(sources(*engine_registries()), lambda source: None).render(OPEN_METRICS["Accept"])
    families = {family.name: family for family in open_metrics(text.decode())}
    assert set(families) == {"vllm:tokens", "vllm:seconds"}, "the colon stays: boards ask for these names"
    exemplars = [sample.exemplar for sample in families["vllm:seconds"].samples if sample.exemplar]
    assert [exemplar.labels["request_id"] for exemplar in exemplars] == ["a", "a"]
    assert text.endswith(b"# EOF\n")
    assert text.count(b"# EOF") == 1


class Failing(Collector):
    """Gives one family, then fails."""

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("half", "Before it failed.", value=1)
        raise OSError("the counters are gone")


class Odd(Collector):
    """Gives a family that cannot be written down."""

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("odd", "No number.", labels=["which"])
        family.add_metric(["one"], "many")  # pyright: ignore[reportArgumentType]
        yield family


class Lost(CollectorRegistry):
    """A registry that cannot even say what it has."""

    @property
    def _collector_to_names(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError("no registry")

    @_collector_to_names.setter
    def _collector_to_names(self, value: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        del value


@pytest.mark.parametrize("accept", ["", OPEN_METRICS["Accept"]])
@pytest.mark.parametrize("broken", [Failing(), Odd()])
def test_a_collector_that_fails_costs_its_own_series_only(
    broken: Collector, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    registries, counted = engine_registries(), list[str]()
    whole, _ = Exposition(sources(*registries), counted.append).render(accept)
    registries[0].register(broken)
    Gauge("after", "Comes after it.", registry=registries[0]).set(1)
    exposition = Exposition(sources(*registries), counted.append)
    with caplog.at_level(logging.ERROR):
        texts = [exposition.render(accept)[0].decode() for _ in range(3)]
    assert 'after{cos_engine="policy"} 1.0' in texts[0]
    assert "half" not in texts[0]
    assert "odd{" not in texts[0]
    assert set(whole.decode().splitlines()) <= set(texts[0].splitlines())
    assert counted == ["policy"] * 3
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith("/metrics lacks ")


def test_a_registry_that_fails_costs_its_own_series_only(caplog: pytest.LogCaptureFixture) -> None:
    counted = list[str]()
    exposition = Exposition(sources(Lost(), engine_registries()[1]), counted.append)
    with caplog.at_level(logging.ERROR):
        text = exposition.render("")[0].decode()
    assert 'vllm:tokens_total{cos_engine="prm",engine="0"} 3.0' in text
    assert counted == ["policy"]
    assert len(caplog.records) == 1
