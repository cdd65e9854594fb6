"""Ranks: the processes of one run, where torchrun or accelerate starts several, and what they do by turns and together.

Files are the first rank's: it reads what decides (is a stage done? which checkpoint is the newest?) and writes what
stays, and tells the others. They wait for it as long as it takes, in a process group of their own, so that a long save
runs into no time limit of the group that exchanges gradients. A rank that dies closes its connections, which ends the
others' waiting at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

from cos.evaluation.failures import StageError
from cos.search.errors import InputError

T = TypeVar("T")
Item = TypeVar("Item")

PATIENCE = timedelta(days=30)
"""How long ranks wait for the first one: longer than any save, or stage of it alone, takes."""


@dataclass(frozen=True)
class Ranks:
    """All ranks of a run, as one of them sees them. One process alone is one rank.

    Every method but the properties is to be called by all ranks, in the same order.
    """

    count: int = 1
    """How many there are."""
    number: int = 0
    """Which one this is, from 0."""

    @classmethod
    def of_environment(cls) -> Ranks:
        """Those that the launcher has started, by its variables WORLD_SIZE and RANK."""
        return cls(int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.number == 0

    def first(self, act: Callable[[], T]) -> T:
        """What ``act`` gives on the first rank; the others wait for it and get it, too. It must be picklable.

        Errors: those of ``act`` on the first rank; on the others InputError or StageError with the same words.
        """
        if self.count == 1:
            return act()
        result: list[Any] = [None, None]
        raised: Exception | None = None
        if self.is_first:
            try:
                result[0] = act()
            except Exception as error:
                raised, result[1] = error, _as_message(error)
        self._broadcast(result)
        if raised is not None:
            raise raised
        if result[1] is not None:
            message, parameter = result[1]
            raise StageError(message) if parameter is None else InputError(message, parameter)
        return result[0]

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        if self.count > 1:
            from torch import distributed

            distributed.barrier(group=self._group)

    def any(self, flag: bool) -> bool:
        """Whether the flag of any rank is set."""
        if self.count == 1:
            return flag
        import torch
        from torch import distributed

        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=self._group)
        return bool(flags)

    def gathered(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        if self.count == 1:
            return [value]
        from torch import distributed

        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value, group=self._group)
        return found

    def shared(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Iterable[T]]) -> list[T]:
        """What ``work`` gives for each item, in the items' order. Each rank works on a part, and all get the whole."""
        found: list[Any] = [None] * len(items)
        for number, part in enumerate(self.gathered([*work(items[self.number :: self.count])])):
            found[number :: self.count] = part
        return found

    def _broadcast(self, result: list[Any]) -> None:
        from torch import distributed

        distributed.broadcast_object_list(result, src=0, group=self._group)

    @cached_property
    def _group(self) -> Any:
        """The group in which ranks wait: over TCP, and with more patience than one that exchanges gradients needs."""
        import torch
        from accelerate import PartialState
        from torch import distributed

        PartialState(cpu=not torch.cuda.is_available())  # begins the default group, if nobody did before
        return distributed.new_group(backend="gloo", timeout=PATIENCE)


ALONE = Ranks()
"""One process."""


def _as_message(error: Exception) -> tuple[str, str | None]:
    """An error as it is sent: its words, and the parameter of an InputError."""
    if isinstance(error, InputError):
        return str(error), error.param
    return (str(error) if isinstance(error, StageError) else f"{type(error).__name__}: {error}"), None


def is_lost(error: BaseException) -> bool:
    """Whether an error, or one behind it, came of another rank's end."""
    from torch import distributed

    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            return False
        if isinstance(cause, distributed.DistError) or "gloo" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def give_back_memory() -> None:
    """Gives a device's memory back after training, for the engine that the next stage starts on it."""
    import torch

    if torch.cuda.is_available():
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)


def leave() -> None:
    """Ends what the ranks have in common, after a run that went well."""
    if Ranks.of_environment().count > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
