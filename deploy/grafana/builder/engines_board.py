"""Engines: policy and PRM side by side, by their own counters and by ours."""

from panels import Json, Look, Panel, Query, Row, board, each_engine, lines, state
from promql import ENGINE_OF_VLLM, of_vllm, per_second, quantiles, series, share
from variables import of_engines

STACKED = Look(stacked=True)
AS_A_SHARE = Look(top=1)
OURS = 'engine=~"$engine"'


def engines() -> Json:
    """The dashboard."""
    return board(
        "cos-engines",
        "cos-serve: Engines",
        "The two vLLM engines, policy on the left and PRM on the right: the same panel twice. The one that has "
        "requests waiting while the other has none is the one that holds searches back.",
        [
            Row("Are they well?", [each_engine(panel) for panel in _health()]),
            Row("Load", [each_engine(panel) for panel in _load()]),
            Row("Speed", [*(each_engine(panel) for panel in _speed()), _between_tokens()]),
            Row("Memory and caches", [each_engine(panel) for panel in _memory()]),
        ],
        of_engines(),
    )


def _health() -> list[Panel]:
    return [
        state(
            "$engine: alive and taking steps",
            "Whether the engine gets on with its requests. No: it is frozen (the process is there and does nothing) "
            "or gone. A frozen engine turns /health to 503; a lost one ends the server, which is then started again.",
            Query(f"min by (engine) ({series('cos_engine_up', OURS)})", "{{engine}}"),
        ),
        lines(
            "$engine: failed requests and freezes",
            "Requests to the engine that failed, a second (each is tried twice), and how often the engine stood "
            "still. Both should be 0. The server's log names the cause.",
            "short",
            [
                Query(per_second(series("cos_engine_request_failures_total", OURS)), "failed requests a second"),
                Query(f"sum(increase({series('cos_engine_freezes_total', OURS)}[$__rate_interval]))", "freezes"),
            ],
        ),
    ]


def _load() -> list[Panel]:
    return [
        lines(
            "$engine: requests running and waiting",
            "Requests in the engine's batch, and those that wait for room in it. Waiting ones for long: the engine is "
            "the bottleneck. Raise --max-num-seqs if the KV cache below has room.",
            "short",
            [
                Query(f"sum({of_vllm('vllm:num_requests_running')})", "running"),
                Query(f"sum({of_vllm('vllm:num_requests_waiting')})", "waiting"),
            ],
        ),
        lines(
            "$engine: requests finished, by reason",
            "Requests a second by how they ended. stop and length are normal: a PRM read is one token, so always "
            "length. abort: the search did not want it any more. error: see the server's log.",
            "reqps",
            [Query(per_second(of_vllm("vllm:request_success_total"), "finished_reason"), "{{finished_reason}}")],
            look=STACKED,
        ),
        lines(
            "$engine: tokens a second",
            "Tokens that the engine wrote, and prompt tokens that it was given (those from its cache included). This "
            "is the engine's throughput: when it is flat while requests wait, the hardware is used up.",
            "short",
            [
                Query(per_second(of_vllm("vllm:generation_tokens_total")), "written"),
                Query(per_second(of_vllm("vllm:prompt_tokens_total")), "prompt"),
            ],
        ),
    ]


def _speed() -> list[Panel]:
    return [
        lines(
            "$engine: duration of a request",
            "From a request's arrival in the engine to its last token. For the PRM this is what one score costs.",
            "s",
            quantiles(of_vllm("vllm:e2e_request_latency_seconds_bucket")),
        ),
        lines(
            "$engine: time to first token",
            "From a request's arrival in the engine to its first token: waiting and reading the prompt. When it grows "
            "and nothing waits, prompts became longer or the prefix cache misses.",
            "s",
            quantiles(of_vllm("vllm:time_to_first_token_seconds_bucket")),
        ),
        lines(
            "$engine: wait inside the engine",
            "How long requests waited in the engine before they came into its batch. Near 0 on a server that is not "
            "full.",
            "s",
            quantiles(of_vllm("vllm:request_queue_time_seconds_bucket")),
        ),
    ]


def _between_tokens() -> Panel:
    return lines(
        "policy: time between tokens",
        "How long the next token took, once the first was there. It grows with the number of requests that run side "
        "by side. The PRM writes one token a request, so it has none.",
        "s",
        quantiles(series("vllm:inter_token_latency_seconds_bucket", f'{ENGINE_OF_VLLM}="policy"')),
        24,
    )


def _memory() -> list[Panel]:
    return [
        lines(
            "$engine: KV cache in use",
            "Share of the KV cache that running requests take. Near 100 %: requests are put off (preempted) and "
            "computed again. Raise --kv-cache-mib, or lower --max-concurrent-searches.",
            "percentunit",
            [Query(f"max({of_vllm('vllm:kv_cache_usage_perc')})", "in use")],
            look=AS_A_SHARE,
        ),
        lines(
            "$engine: prompt tokens found in the prefix cache",
            "Share of prompt tokens that were in the engine's prefix cache. Steps of one search share their prompt, "
            "so it should be high; when it falls under load, the KV cache is too small.",
            "percentunit",
            [
                Query(
                    share(of_vllm("vllm:prefix_cache_hits_total"), of_vllm("vllm:prefix_cache_queries_total")), "found"
                )
            ],
            look=AS_A_SHARE,
        ),
        lines(
            "$engine: preemptions",
            "How often a second a running request was put off for want of KV cache. It should be 0: what is put off "
            "is computed again.",
            "short",
            [Query(per_second(of_vllm("vllm:num_preemptions_total")), "preemptions a second")],
        ),
        lines(
            "$engine: pictures found in the cache",
            "Share of pictures that were in the engine's picture cache. Each new picture misses once; a search does "
            "not send its picture again.",
            "percentunit",
            [Query(share(of_vllm("vllm:mm_cache_hits_total"), of_vllm("vllm:mm_cache_queries_total")), "found")],
            look=AS_A_SHARE,
        ),
    ]
