"""Whether a LoRA adapter is a PRM over the policy's weights, by the files of both."""

from pathlib import Path

from cos.engines.adapter import MERGE, Adapter, fitting_adapter, missing_tokens
from cos.engines.unstarted import Unstarted
from cos.search.errors import InputError
from cos.server.checks.finding import Finding, refused

NAME = "PRM adapter"
SHOWN = 3
"""Most tokens that are named."""


def check_adapter(name: str, policy: Unstarted) -> tuple[Adapter | None, list[Finding]]:
    """What an adapter's files say, and its findings; None where they refuse it. It blocks: call it in a thread."""
    try:
        adapter = fitting_adapter(name, policy.settings)
    except InputError as error:
        return None, [refused(NAME, error, "give another adapter")]
    if missing := missing_tokens(adapter, policy.vocabulary.control_id):
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        told = ", ".join(map(repr, missing[:SHOWN])) + more
        found = f"--prm-lora {name}: its tokenizer has {told}, which the policy's has not, or with another id"
        return None, [Finding(name=NAME, state="refused", found=found, todo=MERGE, param="prm_lora")]
    what = f"rank {adapter.rank} on {', '.join(adapter.targets)} of the policy's own weights"
    if adapter.base and not _is_same(adapter.base, policy.model):
        return adapter, [
            Finding(
                name=NAME,
                state="warning",
                found=f"--prm-lora {name} was trained on {adapter.base}, and the policy is {policy.model}",
                todo="give its own base model as --policy unless both have the same weights",
                param="prm_lora",
            )
        ]
    return adapter, [Finding(name=NAME, state="ok", found=what)]


def _is_same(one: str, other: str) -> bool:
    """Whether two names may be those of one model: folders by their path, others by the last part of the name, as a
    model may have been copied from the hub."""
    paths = [Path(name).expanduser() for name in (one, other)]
    if all(path.is_dir() for path in paths):
        return paths[0].resolve() == paths[1].resolve()
    return paths[0].name.lower() == paths[1].name.lower()
