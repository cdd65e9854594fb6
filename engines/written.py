"""What vLLM has written, as a search sees it."""

from cos.search.ports import Drawn, Stops, Vocabulary


def as_drawn(
    vocabulary: Vocabulary,
    stops: Stops,
    written: tuple[int, ...],
    *,
    is_cut: bool,
    stop: int | str | None,
    logprob: float | None,
    prompt_tokens: int,
    cached_tokens: int,
) -> Drawn:
    """``written``: all its token ids. ``is_cut``: whether a token limit ended it. ``stop``: what ended it in vLLM's
    words."""
    if not is_cut and not isinstance(stop, str):
        # vLLM names no token that ends the model's turn, or names one that its checkpoint lists beside it.
        stop = written[-1] if written and written[-1] in stops.token_ids else None
    end = len(written) - 1 if not is_cut and stop is None else len(written)
    return Drawn(
        written=written,
        text=vocabulary.decode(written[:end]),
        turn_end=vocabulary.decode(written[end:]) if end < len(written) else "",
        tokens=len(written),
        finish="length" if is_cut else "stop",
        stop=stop,
        logprob=logprob,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
    )
