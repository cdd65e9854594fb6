"""One family of series as text.

prometheus_client writes the headers and all that is seldom. Plain samples, thousands a scrape, are written here: it
looks at every letter of every label each time, for most of a scrape, and the event loop stands still meanwhile.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import ALLOWUTF8
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

END = b"# EOF\n"
"""The last line of OpenMetrics."""

_PLAIN_NAME = re.compile("[a-zA-Z_:][a-zA-Z0-9_:]*")
_PLAIN_LABEL = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
_MOST_LABEL_SETS = 1024

Encode = Callable[..., bytes]
"""prometheus_client's encoder of one of the formats."""


def written(family: Metric, encode: Encode) -> bytes:
    """The family's headers and samples, without the end of the text. Errors: whatever a value that is none raises."""
    if not _PLAIN_NAME.fullmatch(family.name) or family.type == "gaugehistogram":
        return _by_the_library(family, encode)
    parts = [_by_the_library(_with(family, ()), encode)]
    for sample in family.samples:
        line = _plain_line(sample)
        if line is None:
            alone = _by_the_library(_with(family, (sample,)), encode)
            parts.append(alone.split(b"\n")[-2] + b"\n")
        else:
            parts.append(line.encode())
    return b"".join(parts)


def _plain_line(sample: Sample) -> str | None:
    """A sample's line; None for one that has more to it than labels and a value."""
    name, labels, value = sample[:3]
    if sample.timestamp is not None or sample.exemplar or sample.native_histogram or not _is_plain(name):
        return None
    if not labels:
        return f"{name} {floatToGoString(value)}\n"
    order = _sorted_names(tuple(labels))
    if order is None:
        return None
    text = ",".join([f'{label}="{_escaped(labels[label])}"' for label in order])
    return f"{name}{{{text}}} {floatToGoString(value)}\n"


def _escaped(value: str) -> str:
    if "\\" in value or "\n" in value or '"' in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value


@lru_cache(maxsize=_MOST_LABEL_SETS)
def _is_plain(name: str) -> bool:
    return _PLAIN_NAME.fullmatch(name) is not None


@lru_cache(maxsize=_MOST_LABEL_SETS)
def _sorted_names(labels: tuple[str, ...]) -> tuple[str, ...] | None:
    """Labels in the order in which they are written; None where one needs another spelling."""
    return tuple(sorted(labels)) if all(_PLAIN_LABEL.fullmatch(label) for label in labels) else None


def _with(family: Metric, samples: Iterable[Sample]) -> Metric:
    found = Metric(family.name, family.documentation, family.type, family.unit)
    found.samples = list(samples)
    return found


def _by_the_library(family: Metric, encode: Encode) -> bytes:
    if _is_plain(family.name):
        # Nothing in it needs another spelling. Left to itself, prometheus_client 0.26 writes the colon in vLLM's names
        # as _ wherever OpenMetrics is asked for, as Prometheus does: no query for them would find anything.
        options: dict[str, Any] = {"escaping": ALLOWUTF8}
    else:
        options = {}
    return encode(_Alone(family), **options).removesuffix(END)


class _Alone(Collector):
    """One family as a registry."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)
