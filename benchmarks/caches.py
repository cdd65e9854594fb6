"""The engines' caches, between measurements."""

from cos.engines.ports import HasCaches, Runtime
from cos.evaluation.in_process import OpenModels
from cos.search.errors import InputError


def caches_of(runtime: Runtime) -> HasCaches:
    """The runtime's caches. Errors: InputError for a runtime whose caches cannot be emptied."""
    if isinstance(runtime, HasCaches):
        return runtime
    message = (
        f"{type(runtime).__name__} cannot empty its caches, so that no two measurements would begin alike; "
        "give a model that runs in this process"
    )
    raise InputError(message, "policy")


async def empty_caches(opened: OpenModels) -> None:
    """Empties the caches of both engines. Errors: as `caches_of`."""
    for runtime in opened.engines.all:
        await caches_of(runtime).forget()
