"""The reply to a scrape: several registries as one, in the format that was asked for.

A family that more than one registry has appears once, with the samples of all. A registry or a collector that fails
costs its own series and no others. Nothing is asked of an engine's process: what it last reported is read.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from cos.server.families import END, Encode, written

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where series come from."""

    name: str
    """"server", "policy" or "prm"."""
    registry: CollectorRegistry
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Added to each of its series."""


class Exposition:
    """All series of some sources."""

    def __init__(self, sources: Sequence[Source], count: Callable[[str], None]) -> None:
        """``count`` is called with a source's name for each of its collectors that fails at a scrape."""
        self._sources = sources
        self._count = count
        self._told = set[tuple[str, str]]()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The series, and their media type: Prometheus' text format, or OpenMetrics (with exemplars), as the request's
        ``Accept`` header has it."""
        encode, media_type = _encoder(accept)
        parts = list[bytes]()
        for name, family in self._families():
            try:
                # One by one: a family that cannot be written down spoils no other.
                parts.append(written(family, encode))
            except Exception as error:
                self._failed(name, family.name, error)
        if "openmetrics" in media_type:
            parts.append(END)
        return b"".join(parts), media_type

    def _families(self) -> Iterable[tuple[str, Metric]]:
        """Every family once, with the source that had it first."""
        families: dict[str, tuple[str, Metric]] = {}
        for source in self._sources:
            for found in self._collected(source):
                if found.name not in families:
                    families[found.name] = source.name, Metric(found.name, found.documentation, found.type, found.unit)
                _, family = families[found.name]
                # When a series was created is noise here: every one of them is as old as the process.
                kept = (sample for sample in found.samples if not sample.name.endswith("_created"))
                family.samples += [_labelled(sample, source.labels) for sample in kept] if source.labels else kept
        return families.values()

    def _collected(self, source: Source) -> Iterator[Metric]:
        try:
            collectors = _collectors(source.registry)
        except Exception as error:
            self._failed(source.name, "all series", error)
            return
        for collector in collectors:
            try:
                # As a list: of a collector that fails half-way nothing is taken.
                families = list(collector.collect())
            except Exception as error:
                self._failed(source.name, _named(collector), error)
            else:
                yield from families

    def _failed(self, source: str, what: str, error: Exception) -> None:
        self._count(source)
        if (source, what) not in self._told:
            self._told.add((source, what))
            logger.error("/metrics lacks %s of the %s: %s (told once)", what, source, error, exc_info=error)


def _encoder(accept: str) -> tuple[Encode, str]:
    try:
        return choose_encoder(accept)
    except (ValueError, TypeError):
        # A version that is none, which prometheus_client tries to read as numbers.
        return choose_encoder("")


def _labelled(sample: Sample, labels: Mapping[str, str]) -> Sample:
    return Sample(sample.name, {**sample.labels, **labels}, *sample[2:])


def _collectors(registry: CollectorRegistry) -> list[Collector]:
    """What a registry has collected. Its own `collect` ends with the first that fails."""
    return list(registry._collector_to_names)  # pyright: ignore[reportPrivateUsage]


def _named(collector: Collector) -> str:
    return str(getattr(collector, "_name", None) or type(collector).__name__)
