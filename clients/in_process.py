"""A search in this process, with the events and the reply of a server."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from cos.engines.pictures import Origin, decode
from cos.evaluation.in_process import score_kind
from cos.search.models import Models
from cos.search.run import run
from cos.search.spec import SearchSpec
from cos.search.terms import parse_sampling
from cos.search.types import Question
from cos.wire.events import Event
from cos.wire.job import Job


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


async def stream(
    models: Models, name: str, image: bytes, question: str, spec: SearchSpec, choices: tuple[str, ...] = ()
) -> AsyncGenerator[Event]:
    """What happens in the search, as it happens; the last event holds the solution. ``name``: the policy's.

    Errors: InputError, EngineError, SearchFailed.
    """
    picture = await asyncio.to_thread(decode, image, Origin("image"))
    job = Job(
        id=f"local-{uuid.uuid4().hex}",
        model=Path(name).name,
        question=Question(question, picture, choices),
        spec=spec,
        scale=models.scorer.scale if models.scorer else None,
        return_tree=True,
    )
    async with aclosing(run(job.question, job.spec, models)) as events:
        async for event in events:
            yield job.event(event)
