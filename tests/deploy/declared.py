"""What the server's own metrics are called, and their labels."""

from prometheus_client.metrics import MetricWrapperBase

from cos.server.metrics import Metrics

LABELS_OF_PROMETHEUS = {"job", "instance"}
"""Those that a scrape adds."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}


def declared() -> dict[str, set[str]]:
    """Labels of every series, by its name; of the process and of the interpreter, too."""
    registry = Metrics().registry
    found: dict[str, set[str]] = {}
    for collector in registry._collector_to_names:  # pyright: ignore[reportPrivateUsage]
        labels = set(collector._labelnames) if isinstance(collector, MetricWrapperBase) else set[str]()  # pyright: ignore[reportPrivateUsage]
        for family in collector.collect():
            for suffix in SUFFIXES[family.type]:
                found[f"{family.name}{suffix}"] = labels
    return found
