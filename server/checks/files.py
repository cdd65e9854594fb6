"""What the files of a policy and a PRM tell, before an engine is started: in seconds, where loading takes minutes."""

import asyncio
from collections.abc import Callable, Mapping

from cos.engines.architectures import names_a_prm
from cos.engines.environment import is_cpu_build, set_environment
from cos.engines.memory import Memory, gpu_memories, main_memory
from cos.engines.placement import NAMES
from cos.engines.quantization import Quantization, check_quantization
from cos.engines.settings import EngineSettings
from cos.engines.unstarted import Unstarted, open_unstarted
from cos.search.errors import InputError
from cos.server.checks.adapter import check_adapter
from cos.server.checks.elsewhere import not_asked
from cos.server.checks.finding import Finding, is_refused, refused
from cos.server.checks.pair import check_pair
from cos.server.checks.room import check_gpus, check_main_memory
from cos.server.settings import Settings


async def check_files(
    settings: Settings,
    memory: Callable[[], Memory | None] = main_memory,
    gpus: Callable[[], Mapping[int, Memory]] = gpu_memories,
) -> tuple[Finding, ...]:
    """One finding a check. Of models that this machine does not load it is said that they are not looked at.
    ``memory``, ``gpus``: what there is of it."""
    policy, prm = settings.engine_settings("policy"), settings.engine_settings("prm")
    here = [one for one in (policy, prm) if one is not None and one.runtime == "vllm"]
    # torch, which tokenizers are loaded with, reads these when it is imported.
    set_environment(here, on_cpu=is_cpu_build())
    findings = [not_asked(one) for one in (policy, prm) if one is not None and one.runtime == "remote"]
    opened: dict[str, Unstarted] = {}
    for one in here:
        try:
            opened[one.role] = await asyncio.to_thread(open_unstarted, one)
            quantization = await asyncio.to_thread(check_quantization, one, on_cpu=is_cpu_build())
        except InputError as error:
            findings.append(refused(f"{NAMES[one.role]} files", error, "give another checkpoint"))
        else:
            findings.append(_no_policy(one, opened[one.role]) or _whole(one, opened[one.role], quantization))
    if is_refused(findings):
        return tuple(findings)
    if settings.prm_lora is not None and settings.prm_url is None:
        adapter, told = await asyncio.to_thread(check_adapter, settings.prm_lora, opened["policy"])
        findings += told
        if adapter is None:
            return tuple(findings)
        opened["prm"] = opened["policy"].with_adapter(adapter)
    if "policy" in opened and (prm is None or "prm" in opened):
        findings += await check_pair(settings, opened["policy"], opened.get("prm"))
    if is_cpu_build():
        return (*findings, *await asyncio.to_thread(check_main_memory, here, memory))
    return (*findings, *await asyncio.to_thread(check_gpus, here, gpus))


def _no_policy(settings: EngineSettings, model: Unstarted) -> Finding | None:
    """That a PRM was given as the policy: by its architecture, or by a head among its weights."""
    made = [str(name) for name in model.config.get("architectures") or ()]
    if settings.role != "policy" or not (any(map(names_a_prm, made)) or "text" not in model.abilities):
        return None
    return Finding(
        name="policy files",
        state="refused",
        found=f"--policy {settings.model} is a reward model ({', '.join(made)}), and writes no steps",
        todo="give it as --prm, and the model that writes the steps as --policy",
        param="policy",
    )


def _whole(settings: EngineSettings, model: Unstarted, quantization: Quantization | None) -> Finding:
    name = f"{NAMES[settings.role]} files"
    made = ", ".join(model.config.get("architectures") or ()) or "no architecture named"
    if quantization is not None:
        made += f", quantised by {quantization.method or 'a method that vLLM is to find out'}"
    if model.stored_bytes is None:
        return Finding(name=name, state="ok", found=f"{made}; its weights are those of the hub")
    return Finding(name=name, state="ok", found=f"{made}; weights of {model.stored_bytes / 2**20:,.0f} MiB")
