import asyncio

from judge_head import JudgeHead
from look_think import LookThink
from qa_lines import QaLines
from three_way import ThreeWay

from cos.engines.scripted import Script, ScriptedEngine
from cos.engines.scripted_vocabulary import ScriptedVocabulary
from cos.prm.ports import Judged
from cos.search.models import Models
from cos.search.run import solve
from cos.search.spec import SearchSpec
from cos.search.types import Question

for made, judging in ((LookThink, JudgeHead), (QaLines, ThreeWay)):
    grammar = made(ScriptedVocabulary())
    policy = ScriptedEngine(Script(grammar=grammar))
    scorer = judging(ScriptedEngine(Script(grammar=grammar)), Judged(vocabulary=policy.vocabulary, grammar=grammar))
    models = Models(policy=policy, grammar=grammar, scorer=scorer)
    for strategy in ("beam", "best_of_n", "auto", "particle"):
        result = asyncio.run(solve(Question("How much is it?"), SearchSpec(strategy, {"n": 4}), models))
        print(strategy, result.finish_reason, result.value)  # noqa: T201
