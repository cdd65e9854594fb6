"""The few shapes of PromQL that the dashboards use."""

from panels import Query

WINDOW = "[$__rate_interval]"
QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
CHOSEN = 'instance=~"$instance"'
ENGINE_OF_VLLM = "cos_engine"
"""The label by which vLLM's own series say which engine they are of."""


def series(metric: str, *matchers: str) -> str:
    """A metric of the chosen servers. ``matchers``: further ones, as ``status="ok"``."""
    return f"{metric}{{{', '.join((CHOSEN, *matchers))}}}"


def of_strategy(metric: str, *matchers: str) -> str:
    """A metric of the chosen servers and strategies."""
    return series(metric, 'strategy=~"$strategy"', *matchers)


def of_vllm(metric: str, *matchers: str) -> str:
    """A metric of vLLM's own, of the chosen servers and engines."""
    return series(metric, f'{ENGINE_OF_VLLM}=~"$engine"', *matchers)


def per_second(counter: str, *by: str) -> str:
    """How fast a counter grows, summed up to the labels ``by``."""
    return f"sum{_by(by)}(rate({counter}{WINDOW}))"


def share(part: str, whole: str, *by: str) -> str:
    """One counter's growth over another's."""
    return f"{per_second(part, *by)} / {per_second(whole, *by)}"


def quantile(q: float, buckets: str, *by: str) -> str:
    """A quantile of a histogram. ``buckets``: its ``_bucket`` series."""
    return f"histogram_quantile({q}, {per_second(buckets, 'le', *by)})"


def quantiles(buckets: str, *by: str) -> list[Query]:
    """p50, p95 and p99 of a histogram, each over the labels ``by``."""
    names = "".join(f" {{{{{label}}}}}" for label in by)
    return [Query(quantile(q, buckets, *by), f"{name}{names}") for name, q in QUANTILES]


def heat(buckets: str) -> str:
    """How many observations fell into each bucket."""
    return f"sum by (le) (increase({buckets}{WINDOW}))"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""
