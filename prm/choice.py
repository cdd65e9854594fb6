"""What ``--prm`` and ``--prm-lora`` say: a model of its own, the policy itself or an adapter over it, or no PRM; and
the format that it is asked in."""

from collections.abc import Collection
from typing import TypeVar

from msgspec import Struct

from cos.prm.dialogue import is_file
from cos.prm.judge import JudgePrm
from cos.prm.judge_json import JsonJudgePrm
from cos.prm.menu import AUTO
from cos.search.errors import InputError

NO_PRM = "none"
"""The PRM name that stands for searching without one."""
ITSELF = JudgePrm.name
"""The PRM name that stands for the policy, asked as a judge."""
JUDGES = (JudgePrm.name, JsonJudgePrm.name)
"""The formats in which a policy may be asked about itself."""

Engine = TypeVar("Engine")


class PrmChoice(Struct, frozen=True):
    """Who judges a policy's chains."""

    name: str
    """A model, an adapter, ``none``, or ``judge``."""
    prm_format: str = AUTO
    is_adapter: bool = False
    """Whether the name is that of a LoRA adapter over the policy's weights, which runs in the policy's engine."""

    @property
    def model(self) -> str | None:
        """The model that needs an engine of its own; None where there is no PRM, or the policy's engine judges."""
        return None if self.is_adapter or self.name in (NO_PRM, ITSELF) else self.name

    @property
    def is_policy(self) -> bool:
        """Whether the policy judges by itself."""
        return self.name == ITSELF and not self.is_adapter

    @property
    def shown(self) -> str | None:
        """What replies and logs call the PRM; None where there is none."""
        return None if self.name == NO_PRM else self.name

    def reader(self, policy: Engine, prm: Engine | None) -> Engine | None:
        """The engine that is asked for scores, of those that run; ``prm`` of an adapter is the policy's with it."""
        return policy if self.is_policy else prm


def choose_prm(
    policy: str, prm: str | None, prm_format: str = AUTO, *, paired: Collection[str], lora: str | None = None
) -> PrmChoice:
    """The PRM of a policy. ``prm``: as a user named it, if at all. ``paired``: policies that have one of their own.
    ``lora``: the adapter over the policy that is the PRM, in place of ``prm``.

    Errors: InputError where there is none for it, there are two, or the format is not that of a judge.
    """
    if lora is not None:
        if prm is not None:
            raise InputError(
                f"--prm-lora {lora} makes a PRM of the policy's own weights, and --prm {prm} names another; leave out "
                "one. To use the adapter with another model's weights, merge it into them and give the result as --prm",
                "prm_lora",
            )
        return PrmChoice(lora, prm_format, is_adapter=True)
    if prm == ITSELF or (prm is None and prm_format in JUDGES):
        if prm_format not in (AUTO, *JUDGES):
            raise InputError(
                f"--prm {ITSELF} asks the policy itself in the format {ITSELF!r}, not in {prm_format!r}; leave out "
                "--prm-format, or give the model of that format as --prm",
                "prm_format",
            )
        return PrmChoice(ITSELF, ITSELF if prm_format == AUTO else prm_format)
    if prm is None and policy not in paired:
        raise InputError(
            f"--policy {policy} needs a --prm: the folder or hub name of a PRM, --prm {ITSELF} to have the policy "
            f"judge its own steps, or --prm {NO_PRM} to rank by the policy's likelihood",
            "prm",
        )
    if prm is not None and is_file(prm):
        raise InputError(
            f"--prm {prm} is a file that says how a PRM is asked; give it as --prm-format, and the PRM itself as --prm",
            "prm",
        )
    return PrmChoice(policy if prm is None else prm, prm_format)
