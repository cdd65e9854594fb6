"""Series are written as prometheus_client itself writes them."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from cos.server.families import END, Encode, written

FORMATS = [choose_encoder(accept)[0] for accept in ("", "application/openmetrics-text; version=1.0.0")]

texts = st.text(alphabet=st.one_of(st.sampled_from('\\"\n{}=,é '), st.characters(codec="utf-8")), max_size=8)
values = st.floats() | st.integers(-(10**20), 10**20)
labels = st.dictionaries(st.sampled_from(["b", "a_1", "le", "Z", "ünplain", "a.b"]), texts, max_size=4)
samples = st.tuples(st.sampled_from(["cos_x", "vllm:x", "a.b"]), labels, values).map(lambda parts: Sample(*parts))


class One(Collector):
    """A registry of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]


def by_the_library(family: Metric, encode: Encode) -> bytes:
    return encode(One(family), escaping=ALLOWUTF8).removesuffix(END)


@pytest.mark.parametrize("encode", FORMATS)
@given(st.lists(samples, max_size=4), st.sampled_from(["cos_x", "vllm:x"]))
def test_whatever_labels_and_values_hold(encode: Encode, found: list[Sample], name: str) -> None:
    family = Metric(name, "Any \\ text\nin lines.", "gauge")
    family.samples = found
    assert written(family, encode) == by_the_library(family, encode)


@pytest.mark.parametrize("encode", FORMATS)
def test_every_type_of_metric_and_samples_with_more_than_a_value(encode: Encode) -> None:
    registry = CollectorRegistry()
    Counter("c", "Counts.", ["a"], registry=registry).labels("x").inc(exemplar={"request_id": "r"})
    Gauge("g", "Goes.", registry=registry).set(float("nan"))
    Histogram("h", "Spreads.", ["a"], registry=registry, buckets=(1, 2)).labels('"').observe(1.5, {"request_id": "r"})
    Info("i", "Tells.", registry=registry).info({"version": "1"})
    timed = Metric("t", "Was then.", "gauge")
    timed.samples = [Sample("t", {"a": "b"}, 1.0, 12.5), Sample("t", {}, 2.0, None, Exemplar({"a": "b"}, 1.0))]
    for family in [*registry.collect(), timed]:
        if family is timed and encode is FORMATS[1]:
            # OpenMetrics knows no exemplars of gauges.
            timed.samples.pop()
        kept = [sample for sample in family.samples if not sample.name.endswith("_created")]
        family.samples = kept
        assert written(family, encode) == by_the_library(family, encode)
