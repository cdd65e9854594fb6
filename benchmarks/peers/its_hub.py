"""its_hub and what it needs: its own environment, vLLM's own servers for both models, and its process."""

import asyncio
import base64
import json
import tempfile
import venv
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from cos.benchmarks.server_process import served
from cos.benchmarks.setting import Setting
from cos.benchmarks.side_by_side import Tally
from cos.checkpoints import LedgerProblem, resolve
from cos.engines.environment import CPU_KV_CACHE_MIB, fitting_dtype, is_cpu_build, set_environment
from cos.engines.settings import EngineSettings, Role
from cos.engines.vllm_start import CPU_BLOCK_TOKENS
from cos.engines.vocabulary import HfVocabulary
from cos.evaluation.provenance import Facts
from cos.prm.cos import CosPrm, reading_marks
from cos.search import grammars
from cos.search.errors import CosError
from cos.search.grammar import Grammar
from cos.search.ports import Drawn, Vocabulary
from cos.search.tasks import together
from cos.search.types import Piece

VERSION = "1.2.0"
CLIENT = Path(__file__).with_name("its_hub_client.py")
LINE_BYTES = 2**28
"""Longest line of its answers."""


class ItsHub:
    """Its best-of-N; a round of `cos.benchmarks.side_by_side`."""

    def __init__(self, process: asyncio.subprocess.Process, form: "ChainForm", setting: Setting) -> None:
        self._process = process
        self._form = form
        self._setting = setting

    async def __call__(self, problems: Sequence[LedgerProblem], concurrency: int, tally: Tally) -> None:
        """Errors: CosError when its process has ended."""
        found = await self.ask(
            {
                "questions": [
                    {
                        "id": problem.id,
                        "text": problem.question,
                        "image_png": base64.b64encode(problem.image_png).decode(),
                    }
                    for problem in problems
                ],
                "n": self._setting.n,
                "temperature": self._setting.temperature,
                "concurrency": concurrency,
            }
        )
        by_id = {problem.id: problem for problem in problems}
        for one in found["searches"]:
            tally.add(by_id[one["id"]], self._form.answer_in(one["text"]), one["latency_s"], one["tokens"])

    async def ask(self, job: Facts) -> Any:
        """What it replies to a line. Errors: CosError when its process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise CosError(f"its_hub ended with status {await self._process.wait()}; its own messages are above")
        return json.loads(line)


class ChainForm:
    """How the policy's whole chains are written, as far as their text tells."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary) -> None:
        self._grammar = grammar
        self._vocabulary = vocabulary
        step, answer = (grammar.spans(Piece(kind, "."), first=False)[-1].text for kind in ("step", "answer"))
        self.step_end: str = step
        """What a step ends with."""
        self.answer_end: str = answer
        """What an answer ends with."""

    def answer_in(self, text: str) -> str | None:
        """The answer that a chain's text ends with; None without one."""
        if not text.endswith(self.answer_end):
            return None
        before = text.removesuffix(self.answer_end)
        ends = (before.rfind(end) + len(end) for end in (self.step_end, self.answer_end) if end in before)
        last = text[max(ends, default=0) :]
        drawn = Drawn(
            written=last,
            text=last,
            tokens=0,
            finish="stop",
            stop=self._vocabulary.control_id(self.answer_end),
            logprob=None,
            prompt_tokens=0,
            cached_tokens=0,
        )
        piece = self._grammar.read(drawn)
        return piece.text if piece.kind == "answer" else None


@asynccontextmanager
async def its_hub(policy: str, prm: str, setting: Setting) -> AsyncGenerator[ItsHub]:
    """its_hub in front of both models. Errors: CosError when it cannot be installed or a server does not start."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cos-its-hub-"))
        python, policy_url, prm_url = await together(
            (
                installed(Path(folder), f"its_hub[lm]=={VERSION}"),
                stack.enter_async_context(vllm_server("policy", policy)),
                stack.enter_async_context(vllm_server("prm", prm)),
            )
        )
        process = await asyncio.create_subprocess_exec(
            *(python, "-P", str(CLIENT)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        try:
            vocabulary = vocabulary_of("policy", policy)
            form = ChainForm(grammars.choose(grammars.AUTO, vocabulary), vocabulary)
            started = ItsHub(process, form, setting)
            await started.ask(introduction(f"{policy_url}/v1", f"{prm_url}/v1", form, prm, setting))
            yield started
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def vocabulary_of(role: Role, model: str) -> HfVocabulary:
    """A model's tokenizer."""
    from transformers import AutoTokenizer

    return HfVocabulary(AutoTokenizer.from_pretrained(resolve(role, model)))


def introduction(policy_url: str, prm_url: str, form: ChainForm, prm: str, setting: Setting) -> Facts:
    """Where its models are, how its chains are cut and how they are scored. Errors: InputError for a PRM of another
    format."""
    spec, marks = setting.spec(seed=0), reading_marks(vocabulary_of("prm", prm))
    return {
        "policy_url": policy_url,
        "prm_url": prm_url,
        "step_end": form.step_end,
        "answer_end": form.answer_end,
        "tag": marks.tag,
        "labels": dict(zip(marks.labels, marks.label_ids, strict=True)),
        "step_weight": spec.ruler(CosPrm.scale).step_weight,
        "max_tokens": spec.sampling.step_tokens * 2,
    }


async def installed(folder: Path, what: str) -> str:
    """The interpreter of a new environment that has a distribution. Errors: CosError with what pip says."""
    await asyncio.to_thread(venv.create, folder, with_pip=True)
    python = str(folder / "bin" / "python")
    pip = await asyncio.create_subprocess_exec(
        *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", what),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await pip.communicate()
    if pip.returncode:
        raise CosError(f"{what} cannot be installed: {output.decode(errors='replace').strip()[-500:]}")
    return python


@asynccontextmanager
async def vllm_server(role: Role, model: str) -> AsyncGenerator[str]:
    """The URL of vLLM's own server, set as our engines are. Errors: CosError when it does not start."""
    on_cpu = is_cpu_build()
    settings = EngineSettings(role=role, model=resolve(role, model))
    set_environment([settings], on_cpu=on_cpu)
    command = [
        "vllm.entrypoints.openai.api_server",
        *("--model", settings.model),
        *("--served-model-name", role),
        *("--dtype", fitting_dtype(settings, on_cpu=on_cpu)),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        *("--gpu-memory-utilization", str(settings.total_memory_utilization / 4)),
        *("--generation-config", "vllm"),
        *("--limit-mm-per-prompt", '{"image": 1, "video": 0}'),
        "--disable-uvicorn-access-log",
    ]
    if on_cpu:
        command += ["--block-size", str(CPU_BLOCK_TOKENS), "--kv-cache-memory-bytes", str(CPU_KV_CACHE_MIB * 2**20)]
        command += ["--enforce-eager", "--skip-mm-profiling"]
    async with served(command, "/health", {}) as url:
        yield url
