"""A PRM that is a LoRA adapter over the policy's weights: the policy's engine, with the adapter for its requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cos.engines.adapter import MERGE, Adapter, find_adapter
from cos.engines.ports import Runtime
from cos.engines.vllm import PROBE, PROBE_PRIORITY, VllmEngine
from cos.search.errors import EngineError, InputError

LIKELIEST = 20
"""Tokens whose log-probabilities tell whether the adapter changes anything; vLLM gives no more unless it is told to."""


class AdaptedEngine(VllmEngine):
    """The PRM's view of the policy's engine. The prefix cache keeps apart what is computed with the adapter; what the
    vision tower makes of a picture, both use."""

    def __init__(self, policy: VllmEngine, adapter: Adapter) -> None:
        """Use `adapt`, which has vLLM load the adapter first."""
        from vllm.lora.request import LoRARequest

        super().__init__(
            replace(policy.settings, role="prm", model=adapter.name, adapter=None),
            policy._llm,
            policy._prompt,
            policy.vocabulary,
            policy.registry,
            policy._load,
            most_pictures=policy.most_pictures,
        )
        self._numbers = policy._numbers
        self._lora = LoRARequest("prm", 1, str(adapter.folder.resolve()))
        self._config = policy.config
        self._files = adapter.files

    @property
    def config(self) -> Mapping[str, Any]:
        """The policy's: an adapter has none of its own."""
        return self._config

    @property
    def files(self) -> frozenset[str]:
        """The adapter's."""
        return self._files

    async def load(self) -> None:
        """Has vLLM load the adapter. Errors: InputError for one that it refuses, or that changes nothing."""
        name = self.settings.model
        try:
            await self._llm.add_lora(self._lora)
        except Exception as error:
            self._raise_if_dead(error)
            told = str(error).removeprefix("Call to add_lora method failed: ").rstrip(".")
            raise InputError(f"--prm-lora {name}: vLLM cannot load it ({told}); {MERGE}", "prm_lora") from error

    async def likeliest(self, engine: VllmEngine) -> Mapping[int, float]:
        """Log-probabilities of the likeliest tokens behind a short text, by this view of the engine or another.
        Errors: EngineError, EngineDead."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=LIKELIEST, detokenize=False)
        base = {"type": "token", "prompt_token_ids": list(self.vocabulary.encode(PROBE))}
        output = await engine.generate(base, (), params, PROBE_PRIORITY, [])
        if output is None:
            raise EngineError("the policy engine ended its first request without a result")
        return {token: float(told.logprob) for token, told in output.outputs[0].logprobs[0].items()}

    async def close(self) -> None:
        """Nothing: the engine is the policy's, and is stopped there."""


async def adapt(policy: Runtime, name: str) -> AdaptedEngine:
    """The PRM that an adapter makes of a running policy.

    Errors: InputError for an adapter that vLLM refuses, or one that changes nothing; EngineDead.
    """
    if not isinstance(policy, VllmEngine):
        raise InputError(f"--prm-lora {name}: only a policy that runs on vLLM in this process takes one", "prm_lora")
    prm = AdaptedEngine(policy, find_adapter(name))
    await prm.load()
    if await prm.likeliest(policy) == await prm.likeliest(prm):
        # vLLM says nothing where no layer of the model has the name of one of the adapter's.
        raise InputError(
            f"--prm-lora {name}: it changes nothing of what the policy says, and would judge as the policy does; "
            f"give an adapter that was trained, or {MERGE}",
            "prm_lora",
        )
    return prm
