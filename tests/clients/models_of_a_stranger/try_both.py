import asyncio

from judge_head import JudgeHead
from look_think import LookThink

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm.ports import Judged
from cos.search.models import Models
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Question

grammar = LookThink(ScriptedVocabulary())
policy = ScriptedEngine(Script(grammar=grammar))
scorer = JudgeHead(ScriptedEngine(Script(grammar=grammar)), Judged(vocabulary=policy.vocabulary, grammar=grammar))
models = Models(policy=policy, grammar=grammar, scorer=scorer)

for strategy in ("beam", "best_of_n", "auto", "particle"):
    result = asyncio.run(solve(Question("How much is it?"), SearchSpec(strategy, {"n": 4}), models))
    print(strategy, result.finish_reason, result.value)  # noqa: T201
