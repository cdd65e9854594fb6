"""Best-of-N by its_hub, as a process of its own in its_hub's environment: nothing of ours is imported here.

stdin: one JSON object that says where the models are (``policy_url``, ``prm_url``), what a step and an answer end with
(``step_end``, ``answer_end``), how they are scored (``tag``, ``labels`` by name, the good one first, ``step_weight``)
and ``max_tokens`` of a chain. Then one for each round: ``questions`` (``id``, ``text``, ``image_png`` in base64),
``n``, ``temperature``, ``concurrency``. stdout: ``{"ready": version}``, then for each round its ``searches`` (``id``,
``text`` of the chain that won, ``latency_s``, ``tokens``).

its_hub has no reward model that sees an image, so it is given one by the interface it has for them: a chain's steps and
its answer are read at the PRM's tags, one request of one token each, and make the score that ours is.
"""

import asyncio
import json
import re
import sys
import time
from importlib.metadata import version
from math import exp

import aiohttp
from its_hub.api import AbstractOutcomeRewardModel, ChatMessage
from its_hub.core.algorithms.bon import BestOfN
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
from its_hub.core.orchestrator import LMOrchestrator


class Policy(OpenAICompatibleLanguageModel):
    """its_hub's client, asking for the control tokens that the PRM is to see."""

    def _prepare_request_data(self, *args, **named):
        return {**super()._prepare_request_data(*args, **named), "skip_special_tokens": False}


class Prm(AbstractOutcomeRewardModel):
    """The PRM behind vLLM's server, as its_hub wants reward models."""

    def __init__(self, session, where):
        self.session = session
        self.url = where["prm_url"]
        self.tag = where["tag"]
        self.labels = where["labels"]
        self.step_weight = where["step_weight"]
        self.answer_end = where["answer_end"]
        ends = "|".join(re.escape(where[end]) for end in ("step_end", "answer_end"))
        self.piece = re.compile(rf".*?(?:{ends})", re.DOTALL)

    def score(self, messages, **named):
        return asyncio.run(self.ascore(messages, **named))

    async def ascore(self, messages, orchestrator=None, **named):
        return list(await asyncio.gather(*(self.chain_score(conversation) for conversation in messages)))

    async def chain_score(self, conversation):
        """Steps' mean and answer, weighed. A chain without an answer, or longer than the PRM's context, scores less
        than any other."""
        *asked, reply = (message.to_dict() for message in conversation)
        segments = self.piece.findall(reply["content"])
        if not segments:
            return -1.0
        scores = []
        for end in range(len(segments)):
            score = await self.read(asked, segments[: end + 1])
            if score is None:
                return -1.0
            scores.append(score)
        if not segments[-1].endswith(self.answer_end):
            return sum(scores) / len(scores) - 1.0
        steps = scores[:-1] or scores
        return self.step_weight * sum(steps) / len(steps) + (1 - self.step_weight) * scores[-1]

    async def read(self, asked, segments):
        """P(good) at the tag of the newest segment; what came before is in the server's prefix cache. None for what has
        no room in the PRM's context."""
        text = "".join(segment + self.tag for segment in segments)
        body = {
            "model": "prm",
            "messages": [*asked, {"role": "assistant", "content": text}],
            "add_generation_prompt": False,
            "continue_final_message": True,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "logprob_token_ids": list(self.labels.values()),
        }
        async with self.session.post(self.url + "/chat/completions", json=body) as response:
            if response.status == 400 and "context length" in await response.text():
                return None
            response.raise_for_status()
            reply = await response.json()
        newest = reply["choices"][0]["logprobs"]["content"][0]
        seen = {entry["token"]: entry["logprob"] for entry in newest["top_logprobs"]}
        good, bad = (seen[label] for label in self.labels)
        return 1 / (1 + exp(bad - good))


async def search(algorithm, policy, question, n):
    """One best-of-N search."""
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + question["image_png"]}},
        {"type": "text", "text": question["text"]},
    ]
    started = time.perf_counter()
    found = await algorithm.ainfer(policy, [ChatMessage(role="user", content=content)], n, return_response_only=False)
    return {
        "id": question["id"],
        "text": found.the_one["content"],
        "latency_s": time.perf_counter() - started,
        "tokens": found.usage.completion_tokens,
    }


async def run_round(where, session, job):
    """So many searches at once."""
    policy = Policy(
        where["policy_url"], "none", "policy", max_completion_tokens=where["max_tokens"], temperature=job["temperature"]
    )
    prm = Prm(session, where)
    live = job["n"] * job["concurrency"]
    algorithm = BestOfN(prm, LMOrchestrator(max_concurrency=live))
    waiting, found = iter(job["questions"]), []

    async def worker():
        for question in waiting:
            found.append(await search(algorithm, policy, question, job["n"]))

    await asyncio.gather(*(worker() for _ in range(job["concurrency"])))
    await policy.close()
    return {"searches": found}


def tell(what):
    """A line for whoever started this."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def main():
    """Works off the rounds."""
    where = json.loads(sys.stdin.readline())
    tell({"ready": version("its_hub")})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        while line := await asyncio.to_thread(sys.stdin.readline):
            tell(await run_round(where, session, json.loads(line)))


if __name__ == "__main__":
    asyncio.run(main())
