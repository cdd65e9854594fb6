"""What each PRM format costs: tokens that the PRM computes while a chain grows, over those that one pass over the
finished chain takes.

No model runs. The formats are asked for the scores of a made-up chain, one step after the other, and their requests are
counted as an engine with a prefix cache computes them (see `cos.benchmarks.counting`; the tests compare with vLLM's own
counts). Computed are the tokens of prompts that are not in the cache, and all that the PRM writes. Needed is:

- for labels and heads, the prompt of the last read, which holds the whole chain with all its marks;
- for written verdicts, the longest conversation: the chain, and the verdicts that stand in it;
- for comparisons, each answer once behind its question.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations

from PIL import Image

from cos.benchmarks.counting import CountingRuntime, PrefixCache, WordVocabulary
from cos.engines.vllm_start import CPU_BLOCK_TOKENS
from cos.evaluation.provenance import Facts
from cos.prm import menu
from cos.prm.judge import JudgePrm
from cos.prm.ports import Judged
from cos.search.grammar import token_ids
from cos.search.grammars.paragraph import ParagraphGrammar
from cos.search.ports import ComparesAnswers, Reading
from cos.search.prompt import question_prompt
from cos.search.types import Candidate, Chain, Picture, Piece, Question

POLICY_ITSELF = "judge, the policy itself"
QUESTION_WORDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of what is scored. A question has a picture and a few sentences."""

    steps: int = 8
    step_words: int = 40
    verdict_words: int = 200
    """Of each written verdict."""
    answers: int = 4
    """How many are compared with each other."""
    block_tokens: int = 16
    """Of the prefix cache: vLLM's own default on a GPU."""


async def measure(sizes: Sizes) -> Facts:
    """Every format. Errors: as `cos.prm.menu.find`."""
    names = [*menu.menu(), POLICY_ITSELF]
    rows = [await cost_of(name, sizes) for name in names]
    on_cpu = [await cost_of(name, replace(sizes, block_tokens=CPU_BLOCK_TOKENS)) for name in names]
    return {
        **asdict(sizes),
        "computed_over_needed": _ratios(rows),
        f"computed_over_needed_blocks_of_{CPU_BLOCK_TOKENS}": _ratios(on_cpu),
        "formats": rows,
    }


def _ratios(rows: Sequence[Facts]) -> dict[str, float]:
    return {row["prm_format"]: row["computed_over_needed"] for row in rows}


async def cost_of(name: str, sizes: Sizes) -> Facts:
    """One format."""
    is_itself = name == POLICY_ITSELF
    prm_words = WordVocabulary("prm")
    written_in = prm_words if is_itself else WordVocabulary("policy")
    grammar = ParagraphGrammar(written_in)
    runtime = CountingRuntime(prm_words, PrefixCache(sizes.block_tokens), sizes.verdict_words)
    prm_format = menu.choose(
        JudgePrm.name if is_itself else name, runtime, Judged(vocabulary=written_in, grammar=grammar)
    )
    runtime.head_values = getattr(prm_format, "width", 1)
    question = Question(" ".join(["so"] * QUESTION_WORDS), (Picture(Image.new("RGB", (1, 1)), "picture"),))
    session = await prm_format.open(question)
    chains = [chain_of(number, sizes, grammar, written_in) for number in range(sizes.answers)]
    if isinstance(session, ComparesAnswers):
        readings = [await session.compare(*pair) for pair in permutations(chains, 2)]
        requests, answers = runtime.requests, len(chains)
        needed = sum([(await session.compare(chain, Chain())).prompt_tokens for chain in chains])
    else:
        policy = (await runtime.open(question_prompt(question, instruction=grammar.instruction))).ids
        readings = list[Reading]()
        for end in range(1, len(chains[0].candidates) + 1):
            grown = Chain(chains[0].candidates[:end])
            if is_itself and isinstance(grown.prefix, tuple):
                # The policy has written it in the same engine, but for the last token computed it.
                runtime.cache.keep((*policy, *grown.prefix[:-1]))
            readings.append(await session.score(grown))
        requests, answers, needed = runtime.requests, 1, runtime.longest
    return {
        "prm_format": name,
        "asks": prm_format.ability,
        "judges": prm_format.scale.judges,
        "answers": answers,
        "requests": requests,
        **_sums(readings, needed),
    }


def chain_of(number: int, sizes: Sizes, grammar: ParagraphGrammar, vocabulary: WordVocabulary) -> Chain:
    """A chain that differs from the others from its first step on."""
    texts = [f"Chain {number} step {step}{' so' * (sizes.step_words - 4)}" for step in range(sizes.steps)]
    chain = Chain()
    for piece in [*(Piece("step", text) for text in texts), Piece("answer", str(number))]:
        chain = chain.then(
            Candidate(
                path=(*chain.path, number),
                written=token_ids(vocabulary, grammar.spans(piece, first=not chain.candidates)),
                tokens=1,
                piece=piece,
                end="answer" if piece.kind == "answer" else "step",
            )
        )
    return chain


def _sums(readings: Sequence[Reading], needed: int) -> Facts:
    prompt, cached, written = (
        sum(getattr(reading, name) for reading in readings) for name in ("prompt_tokens", "cached_tokens", "tokens")
    )
    computed = prompt - cached + written
    return {
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "written_tokens": written,
        "computed_tokens": computed,
        "needed_tokens": needed,
        "computed_over_needed": computed / needed,
        "naive_over_needed": (prompt + written) / needed,
    }
