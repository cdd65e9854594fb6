"""Search economics: what an answer costs, and what of it was in vain."""

from panels import Json, Look, Panel, Query, Row, board, heatmap, lines, number
from promql import heat, of_strategy, per_second, quantiles, series, share
from variables import everywhere

ANSWERS = of_strategy("cos_time_to_answer_seconds_count")
TOKENS = "cos_policy_tokens_total"
CANDIDATES = "cos_candidates_total"
STACKED = Look(stacked=True)
AS_A_SHARE = Look(top=1)


def economics() -> Json:
    """The dashboard."""
    return board(
        "cos-search-economics",
        "cos-serve: Search economics",
        "What an answer costs: tokens that the policy wrote, scores that the PRM gave, and how much of both the "
        "answer did not need. Search is worth its price where the discarded part buys better answers; `cos eval "
        "ledger` measures that.",
        [
            Row("An answer", _numbers()),
            Row("Tokens and reads", [_by_outcome(), _by_strategy(), _reads()]),
            Row("Candidates", [_candidates(), _depth(), _kept()]),
            Row("Work begun ahead", [_ahead(), _ahead_share()]),
            Row("Prompts and caches", [_prompts(), _cache()]),
            Row("Scores", [_scores(), _mean_score(), _unscored()]),
        ],
        everywhere(),
    )


def _an_answer(counter: str, *by: str) -> str:
    """A counter's growth for each answer."""
    if not by or by == ("strategy",):
        return share(counter, ANSWERS, *by)
    return f"{per_second(counter, *by)} / on () group_left () {per_second(ANSWERS)}"


def _numbers() -> list[Panel]:
    return [
        number(
            "Tokens an answer",
            "Tokens that the policy wrote for one answer, all of its candidates together. It grows with n and with "
            "the number of steps.",
            "short",
            Query(_an_answer(of_strategy(TOKENS)), "tokens"),
            6,
        ),
        number(
            "PRM reads an answer",
            "Scores that were read from the PRM for one answer. Every read costs one request to the PRM engine.",
            "short",
            Query(_an_answer(of_strategy("cos_prm_reads_total")), "reads"),
            6,
        ),
        number(
            "Tokens that the answer kept",
            "Share of written tokens that stand in the answer's chain. With n candidates it is about 1/n; far below "
            "that, much is drawn that never competes.",
            "percentunit",
            Query(share(of_strategy(TOKENS, 'outcome="kept"'), of_strategy(TOKENS)), "kept"),
            6,
        ),
        number(
            "Prompt tokens from the cache",
            "Share of prompt tokens, over both engines, that an engine did not have to compute. A search asks for the "
            "same prompt again and again: it should be above 80 %. See the row Prompts and caches when it falls.",
            "percentunit",
            Query(
                share(series("cos_prompt_tokens_total", 'source="cached"'), series("cos_prompt_tokens_total")),
                "cached",
            ),
            6,
        ),
    ]


def _by_outcome() -> Panel:
    return lines(
        "Tokens an answer, by outcome",
        "Tokens that were generated for one answer. kept: in the answer. discarded: in a candidate that lost. "
        "duplicate: in a candidate with the same text as another. asked: the policy's replies about its own "
        "candidates. aborted: broken off before the end. Many duplicates: raise the temperature or lower n.",
        "short",
        [Query(_an_answer(of_strategy(TOKENS), "outcome"), "{{outcome}}")],
        look=STACKED,
    )


def _by_strategy() -> Panel:
    return lines(
        "Tokens an answer, by strategy",
        "Tokens that one answer of each strategy took. A strategy that grows here without a change of n writes longer "
        "chains: the questions changed, or the model does not come to an end.",
        "short",
        [Query(_an_answer(of_strategy(TOKENS), "strategy"), "{{strategy}}")],
    )


def _reads() -> Panel:
    return lines(
        "PRM reads an answer, by strategy",
        "Scores that one answer of each strategy took. Strategies that score every step read more than those that "
        "score whole chains. Nothing here with answers there: the strategy does without the PRM, or the PRM is gone.",
        "short",
        [Query(_an_answer(of_strategy("cos_prm_reads_total"), "strategy"), "{{strategy}}")],
    )


def _candidates() -> Panel:
    return lines(
        "Candidate steps an answer, by outcome",
        "Candidate steps of one answer. kept: in the answer's chain. pruned: lost against others. duplicate: the same "
        "text as another. aborted: begun, and broken off or not wanted after all. Many aborted ones: much is begun "
        "ahead in vain (see below), searches meet limits, or clients leave.",
        "short",
        [Query(_an_answer(of_strategy(CANDIDATES), "outcome"), "{{outcome}}")],
        look=STACKED,
    )


def _depth() -> Panel:
    return lines(
        "Steps in an answer",
        "How many steps the chain of an answer has. When p99 lies at max_steps, chains are cut: raise max_steps, or "
        "see why the policy does not come to an end.",
        "short",
        quantiles(of_strategy("cos_search_depth_steps_bucket")),
    )


def _kept() -> Panel:
    return lines(
        "Tokens that the answer kept, by strategy",
        "Share of written tokens that stand in the answer's chain. The rest paid for the choice. When the share of a "
        "strategy falls and its answers get no better, a smaller n does as well.",
        "percentunit",
        [Query(share(of_strategy(TOKENS, 'outcome="kept"'), of_strategy(TOKENS), "strategy"), "{{strategy}}")],
        look=AS_A_SHARE,
    )


def _ahead() -> Panel:
    return lines(
        "Candidates begun ahead",
        "Candidates that were begun before it was decided that they are wanted, a second. used: they were wanted and "
        "saved time. dropped: they were not and cost tokens.",
        "short",
        [Query(per_second(of_strategy("cos_candidates_begun_ahead_total"), "outcome"), "{{outcome}}")],
        12,
        STACKED,
    )


def _ahead_share() -> Panel:
    begun = "cos_candidates_begun_ahead_total"
    return lines(
        "Begun ahead and used, by strategy",
        "Share of candidates begun ahead that were wanted after all. Below one half on a busy server, beginning ahead "
        "costs more than it saves: send speculate: false.",
        "percentunit",
        [Query(share(of_strategy(begun, 'outcome="used"'), of_strategy(begun), "strategy"), "{{strategy}}")],
        12,
        AS_A_SHARE,
    )


def _prompts() -> Panel:
    return lines(
        "Prompt tokens, by engine and source",
        "Prompt tokens a second that each engine was given, from its prefix cache or computed. Computed tokens are "
        "what costs time.",
        "short",
        [Query(per_second(series("cos_prompt_tokens_total"), "engine", "source"), "{{engine}} {{source}}")],
        12,
        STACKED,
    )


def _cache() -> Panel:
    tokens = "cos_prompt_tokens_total"
    return lines(
        "Prompt tokens from the cache, by engine",
        "Share of prompt tokens that an engine found in its prefix cache. When it falls under load, the KV cache is "
        "too small for the searches that run at once: raise --kv-cache-mib or lower --max-concurrent-searches.",
        "percentunit",
        [Query(share(series(tokens, 'source="cached"'), series(tokens), "engine"), "{{engine}}")],
        12,
        AS_A_SHARE,
    )


def _scores() -> Panel:
    return heatmap(
        "PRM scores",
        "Every score that the PRM gave, 0 is surely wrong and 1 surely right. All scores in one band: the PRM tells "
        "nothing apart, and the search picks by chance. Check that the PRM belongs to this policy.",
        "short",
        heat(of_strategy("cos_prm_score_bucket")),
    )


def _mean_score() -> Panel:
    score = "cos_prm_score"
    return lines(
        "Mean PRM score, by strategy",
        "The mean score of candidates. A slow drift over days means that questions or pictures are no longer those "
        "that the PRM was trained for.",
        "short",
        [Query(share(of_strategy(f"{score}_sum"), of_strategy(f"{score}_count"), "strategy"), "{{strategy}}")],
        6,
        AS_A_SHARE,
    )


def _unscored() -> Panel:
    written = of_strategy(CANDIDATES, 'outcome!="aborted"')
    return lines(
        "Candidates without a score",
        "Share of written candidates whose score was missing or no number. It should be 0. Otherwise the PRM fails: "
        "see failed requests on the dashboard Engines, and the server's log.",
        "percentunit",
        [Query(share(of_strategy("cos_unscored_total"), written, "strategy"), "{{strategy}}")],
        6,
    )
