"""Search latency: how long people wait, for whom, and where that time goes."""

from panels import Json, Look, Panel, Query, Row, board, heatmap, lines, number
from promql import QUANTILES, heat, of_strategy, per_second, quantile, quantiles, series
from variables import everywhere

ANSWER = "cos_time_to_answer_seconds"
STAGE = "cos_search_stage_duration_seconds"
FIRST_STEP = "cos_time_to_first_step_seconds"
QUEUE = "cos_queue_duration_seconds"
REQUEST = "cos_request_duration_seconds"
WITH_EXEMPLARS = Look(exemplars=True)
SHARES = {"p50": "half of the", "p95": "95 of 100", "p99": "99 of 100"}


def latency() -> Json:
    """The dashboard."""
    return board(
        "cos-search-latency",
        "cos-serve: Search latency",
        "How long a search takes, from the arrival of its request to its answer, and where that time goes. Begin with "
        "*Time to answer*. When it grows, *Where the time goes* says which stage grew with it.",
        [
            Row("Now", _now()),
            Row("Time to answer, by strategy", [*(_answer(name, q) for name, q in QUANTILES), *_whole()]),
            Row("Where the time goes", [_stacked(), *(_stage(name, q) for name, q in QUANTILES)]),
            Row("First sign of life, and the queue", [_first_step(), _queue(), _load()]),
        ],
        everywhere(),
    )


def _now() -> list[Panel]:
    numbers = [
        number(
            f"Time to answer, {name}",
            f"The time within which {SHARES[name]} searches were answered, over all chosen strategies. When it turns "
            "red, look at the same quantile by strategy below.",
            "s",
            Query(quantile(q, of_strategy(f"{ANSWER}_bucket")), name),
            6,
            (30, 120),
        )
        for name, q in QUANTILES
    ]
    answers = number(
        "Answers a second",
        "Searches that came to an answer, a second. When it is 0 while requests arrive, see the dashboard Traffic and "
        "guarantees.",
        "reqps",
        Query(per_second(of_strategy(f"{ANSWER}_count")), "answers"),
        6,
    )
    return [*numbers, answers]


def _answer(name: str, q: float) -> Panel:
    return lines(
        f"Time to answer by strategy, {name}",
        f"The time within which {SHARES[name]} searches of a strategy were answered, the wait in the queue included. "
        "Strategies that draw more candidates take longer by nature. When all of them grow at once, the queue or an "
        "engine is the cause; when one grows alone, its requests ask for more (n, steps). Dots are single searches: "
        "each names its request id.",
        "s",
        [Query(quantile(q, of_strategy(f"{ANSWER}_bucket"), "strategy"), "{{strategy}}")],
        look=WITH_EXEMPLARS,
    )


def _whole() -> list[Panel]:
    return [
        heatmap(
            "Time to answer, all searches",
            "Every answered search by the time it took: brighter is more searches. Two bands are two kinds of "
            "requests, for instance two strategies. A band that climbs is a queue that grows.",
            "s",
            heat(of_strategy(f"{ANSWER}_bucket")),
        ),
        lines(
            "Duration of a request, p95 by endpoint",
            "The time within which 95 of 100 requests ended, however they ended: refused and failed ones count, too. "
            "When it is far below the time to answer, many requests are refused.",
            "s",
            [Query(quantile(0.95, of_strategy(f"{REQUEST}_bucket"), "endpoint"), "{{endpoint}}")],
            12,
            WITH_EXEMPLARS,
        ),
    ]


def _stacked() -> Panel:
    seconds = per_second(of_strategy(f"{STAGE}_sum"), "stage")
    searches = per_second(of_strategy(f"{STAGE}_count", 'stage="queue"'))
    return lines(
        "A mean search, by stage",
        "Where a mean search spends its wall time; the stages add up to all of it. queue: it waits for a place. "
        "decode: its picture is read. open: both engines prepare the question. generate: the policy writes. score: "
        "only the PRM is waited for. vote: answers are compared. select: everything else. When queue grows, add "
        "servers or lower n; when generate or score grows, see that engine on the dashboard Engines.",
        "s",
        [Query(f"{seconds} / on () group_left () {searches}", "{{stage}}")],
        24,
        Look(stacked=True),
    )


def _stage(name: str, q: float) -> Panel:
    return lines(
        f"Time in a stage, {name}",
        f"The time within which {SHARES[name]} searches were through with a stage. A stage whose p99 is far above its "
        "p50 is fast as a rule and slow at times: compare the time of its peaks with the load below.",
        "s",
        [Query(quantile(q, of_strategy(f"{STAGE}_bucket"), "stage"), "{{stage}}")],
    )


def _first_step() -> Panel:
    return lines(
        "Time to first step",
        "From the arrival of a request to its first candidate step: when a client that streams sees the first sign of "
        "life. When it grows while the queue is empty, the policy is slow to begin: see time to first token on the "
        "dashboard Engines.",
        "s",
        quantiles(of_strategy(f"{FIRST_STEP}_bucket")),
    )


def _queue() -> Panel:
    return lines(
        "Wait in the queue",
        "How long a search waited for a place. Above a second for long: more searches arrive than this server can "
        "carry. Add servers, or raise --max-concurrent-searches if the engines have room.",
        "s",
        quantiles(of_strategy(f"{QUEUE}_bucket")),
    )


def _load() -> Panel:
    return lines(
        "Searches that run and that wait",
        "How many searches hold a place, how many wait for one, and how many places there are. Waiting searches under "
        "a line of running ones that is flat at the limit: the server is full.",
        "short",
        [
            Query(f"sum({series('cos_requests_in_progress')})", "running"),
            Query(f"sum({series('cos_requests_queued')})", "waiting"),
            Query(f"sum({series('cos_concurrent_searches_limit')})", "places"),
        ],
    )
