"""The engines' caches, between measurements."""

from cos.evaluation.in_process import Running


async def forget(running: Running) -> None:
    """Empties the caches of both engines."""
    await running.engines.policy.forget()
    if running.engines.prm is not None:
        await running.engines.prm.forget()
