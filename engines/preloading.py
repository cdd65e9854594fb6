"""What engines on CPU have in common before they start: a process that imports vLLM, from which each is forked."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from cos.engines.environment import is_cpu_build, set_environment
from cos.engines.processes import drop_preloaded, preload
from cos.engines.settings import EngineSettings

PRELOADED = ("vllm.v1.engine.async_llm", "vllm.v1.worker.cpu_worker", "transformers.models.auto")
"""What an engine process on CPU imports for most of its start."""


def preload_vllm() -> bool:
    """Begins the import unless it has begun, and returns at once: whether this call did it. The environment of the
    engines has to be set."""
    return preload(PRELOADED)


@contextmanager
def preloading(every: Sequence[EngineSettings | None]) -> Generator[None]:
    """vLLM is imported beside what is done within, where engines of ``every`` will need it. An error drops it again."""
    here = [one for one in every if one is not None and one.runtime == "vllm"]
    if not here or not is_cpu_build():
        yield
        return
    set_environment(here, on_cpu=True)
    is_first = preload_vllm()
    try:
        yield
    except BaseException:
        if is_first:
            drop_preloaded()
        raise
