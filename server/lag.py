"""How late the event loop is: whoever holds it up holds up every search."""

import asyncio
import time
from collections.abc import Callable

EVERY_S = 0.25


async def sample_lag(observe: Callable[[float], None]) -> None:
    """Sleeps and tells how much later than due it woke, seconds; until it is cancelled."""
    while True:
        # Not by the loop's own clock, which may stand still while the loop is held up.
        due = time.perf_counter() + EVERY_S
        await asyncio.sleep(EVERY_S)
        observe(max(0.0, time.perf_counter() - due))
