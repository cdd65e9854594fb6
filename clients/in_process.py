"""A search in this process, with the events and the reply of a server."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from cos.engines.pictures import Origin, decode, decode_base64
from cos.evaluation.in_process import score_kind
from cos.search.chain_scores import check_read, score_chain
from cos.search.models import Models
from cos.search.run import run
from cos.search.spec import SearchSpec
from cos.search.terms import parse_sampling
from cos.search.types import Question
from cos.wire.asked import Asked, said
from cos.wire.conversation import Message
from cos.wire.events import Event
from cos.wire.job import Job
from cos.wire.score import ScoreRequest, Scores
from cos.wire.scored import pieces_of, ruler_of, scores_of


def spec_of(options: Mapping[str, Any], *, seed: int, prm: str) -> SearchSpec:
    """The search that these fields of `cos.wire.request.Options` ask for, with this PRM or with ``none``. Errors:
    InputError naming the value that cannot be used."""
    sampling = {name: options[name] for name in ("temperature", "top_p") if name in options}
    return SearchSpec(
        options["strategy"],
        {name: options[name] for name in ("n", "beam_width") if name in options},
        sampling=parse_sampling({**sampling, "seed": seed}),
        score=score_kind(options.get("score"), prm),
        aggregation=options.get("aggregation"),
    )


async def score(models: Models, prm: str, images: Sequence[bytes], question: str, chain: ScoreRequest) -> Scores:
    """The scores of the first chain of a request, as a server replies. Errors: InputError, EngineDead, EngineError."""
    assert models.scorer is not None
    pictures = tuple([await asyncio.to_thread(decode, image, Origin("image")) for image in images])
    ruler = ruler_of(models.scorer, chain)
    pieces = pieces_of(chain.items[0], models, "text")
    session = await models.scorer.open(Question(question, pictures))
    found = await score_chain(session, pieces, ruler.scale)
    check_read([found])
    return scores_of(
        [found],
        ruler,
        kind="score",
        id=f"local-{uuid.uuid4().hex}",
        prm=Path(prm).name,
        models=models,
        pictures=len(pictures),
    )


async def stream(
    models: Models,
    name: str,
    images: Sequence[bytes],
    question: str,
    spec: SearchSpec,
    choices: tuple[str, ...] = (),
    history: tuple[Message, ...] = (),
) -> AsyncGenerator[Event]:
    """What happens in the search, as it happens; the last event holds the solution. ``name``: the policy's.
    ``images``: the files of the question's pictures. ``history``: what was said before.

    Errors: InputError, BadImage, EngineError, SearchFailed.
    """
    earlier = said(history, "history")
    sent = [
        *((decode_base64(str(one.source), one.param), one.param) for turn in earlier for one in turn.sent),
        *((image, "image") for image in images),
    ]
    pictures = [await asyncio.to_thread(decode, data, Origin(param)) for data, param in sent]
    asked = Asked(question, choices, tuple(turn.turn for turn in earlier))
    job = Job(
        id=f"local-{uuid.uuid4().hex}",
        model=Path(name).name,
        question=asked.question(pictures),
        spec=spec,
        scale=models.scorer.scale if models.scorer else None,
        return_tree=True,
    )
    async with aclosing(run(job.question, job.spec, models)) as events:
        async for event in events:
            yield job.event(event)
