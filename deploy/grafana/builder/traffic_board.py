"""Traffic and guarantees: what came in, how it ended, what was refused, and whether the server kept its word."""

from panels import Json, Look, Panel, Query, Row, board, lines, number, table
from promql import of_strategy, per_second, quantile, quantiles, series, share
from variables import everywhere

STACKED = Look(stacked=True)
REQUESTS = of_strategy("cos_requests_total")
STARTED = series("process_start_time_seconds")
OF_OURS = ' * on (job, instance) group_left () cos_build_info{instance=~"$instance"}'
"""Keeps the series of servers of ours only: every exporter tells when its process started."""


def traffic() -> Json:
    """The dashboard."""
    return board(
        "cos-traffic-guarantees",
        "cos-serve: Traffic and guarantees",
        "What came in and how it ended. A search ends in exactly one of: ok, partial (a limit came first, and the "
        "best answer so far was given), rejected, failed, cancelled (the client left). Only *failed* is the server's "
        "fault.",
        [
            Row("Now", _now()),
            Row("Requests", [_by_status(), _by_strategy(), _failed()]),
            Row("Admission", [_admission(), _rejections(), _queued()]),
            Row("Limits and pictures", [_limits(), _pictures(), _decoding()]),
            Row("The server itself", [*_process(), _traces(), _collectors(), _builds()]),
        ],
        everywhere(),
    )


def _now() -> list[Panel]:
    return [
        number(
            "Requests a second",
            "Requests for a search, however they ended. 0 with clients that ask: they do not reach the server.",
            "reqps",
            Query(per_second(REQUESTS), "requests"),
            6,
        ),
        number(
            "Requests that failed",
            "Share of requests that failed by the server's fault. Above 0: see the server's log for the request ids.",
            "percentunit",
            Query(share(of_strategy("cos_requests_total", 'status="failed"'), REQUESTS), "failed"),
            6,
            (0.01, 0.05),
        ),
        number(
            "Restarts",
            "How often the chosen servers were started again in the time shown. An engine that dies ends the server, "
            "so every lost engine is one restart. More than one without your doing: see the log before each of them.",
            "short",
            Query(f"sum(changes({STARTED}[$__range]){OF_OURS})", "restarts"),
            6,
            (1, 3),
        ),
        number(
            "Up since",
            "How long the youngest of the chosen servers has run. Minutes, and you did not start it: see Restarts.",
            "s",
            Query(f"min((time() - {STARTED}){OF_OURS})", "up"),
            6,
        ),
    ]


def _by_status() -> Panel:
    return lines(
        "Requests a second, by how they ended",
        "ok, partial, rejected, failed, cancelled: see above. Many cancelled ones: clients do not wait as long as "
        "searches take; raise their time-out or lower n.",
        "reqps",
        [Query(per_second(REQUESTS, "status"), "{{status}}")],
        look=STACKED,
    )


def _by_strategy() -> Panel:
    return lines(
        "Requests a second, by strategy",
        "What clients ask for. A request that was refused before its strategy was known has none.",
        "reqps",
        [Query(per_second(REQUESTS, "strategy"), "{{strategy}}")],
        look=STACKED,
    )


def _failed() -> Panel:
    return lines(
        "Share of requests, without those that ended well",
        "Shares of requests that failed, were rejected, or were cancelled. failed should be 0. rejected ones are "
        "mistakes of clients or a server that is full: see Admission.",
        "percentunit",
        [
            Query(share(of_strategy("cos_requests_total", f'status="{status}"'), REQUESTS), status)
            for status in ("failed", "rejected", "cancelled", "partial")
        ],
    )


def _admission() -> Panel:
    return lines(
        "Searches that run, and places",
        "Searches that hold a place, and how many there are (--max-concurrent-searches). At the limit, further "
        "searches wait.",
        "short",
        [
            Query(f"sum({series('cos_requests_in_progress')})", "running"),
            Query(f"sum({series('cos_concurrent_searches_limit')})", "places"),
        ],
    )


def _queued() -> Panel:
    return lines(
        "Searches that wait, and places to wait in",
        "Searches in the queue, and how many it takes (--max-queued-searches). When it is full, the next request is "
        "answered with 429.",
        "short",
        [
            Query(f"sum({series('cos_requests_queued')})", "waiting"),
            Query(f"sum({series('cos_queued_searches_limit')})", "places"),
        ],
    )


def _rejections() -> Panel:
    return lines(
        "Requests refused for want of a place, by reason",
        "queue_full: more came than the server takes: add servers. queue_timeout: a search waited as long as it may "
        "(--timeout-s). draining: the server was shutting down; a load balancer that asks /ready sends nothing more "
        "by then.",
        "reqps",
        [Query(per_second(series("cos_admission_rejections_total"), "reason"), "{{reason}}")],
        look=STACKED,
    )


def _limits() -> Panel:
    return lines(
        "Searches that a limit ended, by limit",
        "Searches that a limit ended or narrowed, a second: tokens, PRM reads, seconds, max_steps, truncated (a "
        "step's own tokens), or the end of the server. Their answer is the best so far. Many of them: raise the "
        "limit, or see which strategy asks for too much.",
        "short",
        [Query(per_second(of_strategy("cos_search_limits_total"), "limit"), "{{limit}}")],
        look=STACKED,
    )


def _pictures() -> Panel:
    return lines(
        "Pictures refused, by reason",
        "Pictures that were not taken, a second. They are mistakes of clients, who are told what to send instead.",
        "short",
        [Query(per_second(series("cos_image_rejections_total"), "reason"), "{{reason}}")],
        look=STACKED,
    )


def _decoding() -> Panel:
    return lines(
        "Time to decode a picture",
        "How long it took to make an image of a file. Seconds: pictures are huge, or the processor is busy; lower "
        "--max-image-megapixels.",
        "s",
        quantiles(series("cos_image_decode_duration_seconds_bucket")),
    )


def _process() -> list[Panel]:
    return [_restarts(), _lag(), _memory(), _processor()]


def _restarts() -> Panel:
    return lines(
        "Up since, by server",
        "How long each server has run. A line that falls to 0 is a restart.",
        "s",
        [Query(f"(time() - {STARTED}){OF_OURS}", "{{instance}}")],
    )


def _lag() -> Panel:
    lag = series("cos_event_loop_lag_seconds_bucket")
    return lines(
        "Lag of the event loop",
        "How much later than due the server's own timers ran. Above 0.1 s: the server's process has too much to do, "
        "and everything it answers is late. Give it a processor core of its own.",
        "s",
        [Query(quantile(q, lag), name) for name, q in (("p50", 0.5), ("p99", 0.99))],
    )


def _memory() -> Panel:
    return lines(
        "Memory of the server's process",
        "What the server's own process holds; the engines' processes are not in it. A line that climbs for days: "
        "report it.",
        "bytes",
        [Query(f"{series('process_resident_memory_bytes')}{OF_OURS}", "{{instance}}")],
    )


def _processor() -> Panel:
    used = f"rate({series('process_cpu_seconds_total')}[$__rate_interval])"
    return lines(
        "Processor time of the server's process",
        "Cores that the server's own process uses; the engines' processes are not in it. Near 1, its one event loop "
        "is used up: run a second server.",
        "short",
        [Query(f"{used}{OF_OURS}", "{{instance}}")],
    )


def _traces() -> Panel:
    return lines(
        "Traces of searches",
        "Finished searches that were written to the trace folder, or could not be. failed: the disk is full or the "
        "folder cannot be written to. Empty without --trace-dir.",
        "short",
        [Query(per_second(series("cos_traces_total"), "status"), "{{status}}")],
    )


def _collectors() -> Panel:
    return lines(
        "Metrics that could not be read",
        "How often a second a part of /metrics was left out because reading it failed, by part. It should be 0; what "
        "is missing is missing on these dashboards, too.",
        "short",
        [Query(per_second(series("cos_collector_failures_total"), "source"), "{{source}}")],
    )


def _builds() -> Panel:
    return table(
        "Servers",
        "Version and models of each chosen server. Different versions side by side: an update is under way, or stuck.",
        Query(series("cos_build_info"), "{{instance}}"),
        24,
    )
