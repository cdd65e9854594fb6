"""Whether a policy and a PRM fit each other and what they are to be used as, by their files alone."""

from functools import partial
from pathlib import Path

from cos.engines.adapter import MERGE
from cos.engines.heads import find_head
from cos.engines.unstarted import Unstarted
from cos.prm import menu as prm_formats
from cos.prm.choice import PrmChoice
from cos.prm.matching import match, unseen_pictures
from cos.search.errors import InputError
from cos.search.models import Models
from cos.search.prompt import question_prompt
from cos.search.terms import Sampling
from cos.search.types import Picture, Question
from cos.server.checks.arithmetic import ARITHMETIC
from cos.server.checks.finding import Finding, refused
from cos.server.settings import Settings


async def check_pair(settings: Settings, policy: Unstarted, prm: Unstarted | None) -> list[Finding]:
    """Grammar, chat template, PRM format, pictures, context lengths: in this order, up to the
    first that nothing further can be told behind."""
    matched = partial(
        match,
        grammar=settings.grammar,
        policy_suffix=settings.policy_suffix,
        prm_suffix=settings.prm_suffix,
        verdict_tokens=settings.prm_verdict_tokens,
    )
    try:
        alone = matched(policy, None)
    except InputError as error:
        return [refused("step grammar", error, "give another --grammar")]
    findings = [Finding(name="step grammar", state="ok", found=alone.grammar.name)]
    question = Question(ARITHMETIC.question)
    try:
        prompt_tokens = await _rendered(policy, alone, question)
    except InputError as error:
        return [*findings, _no_template(policy, error)]
    findings.append(
        Finding(name="chat template", state="ok", found=f"renders a short question in {prompt_tokens} tokens")
    )
    models, chosen = alone, settings.prm_choice
    reader = chosen.reader(policy, prm)
    if reader is not None:
        wrong = _wrong_ability(chosen, reader)
        if wrong is not None:
            return [*findings, wrong]
        try:
            models = matched(policy, reader, prm_format=chosen.prm_format)
            if models.scorer is not None:
                await models.scorer.open(question)
        except InputError as error:
            return [*findings, refused("PRM format", error, "give another --prm-format, or --prm none")]
        what = f"{models.prm_format}: every label and tag is one token, and a question is rendered"
        findings.append(Finding(name="PRM format", state="ok", found=what))
    return [
        *findings,
        _pictures(settings, policy, prm, models),
        _contexts(policy, prm, prompt_tokens),
    ]


async def _rendered(policy: Unstarted, models: Models, question: Question) -> int:
    """How many tokens a short question is, as a search asks it. Errors: InputError for what a template cannot write of
    what a search needs: what the grammar has it told, and a picture."""
    from PIL import Image

    asked = question_prompt(question, instruction=models.grammar.instruction, suffix=models.question_suffix)
    session = await policy.open(asked)
    if policy.sees_pictures:
        picture = Picture(Image.new("RGB", (8, 8)), "blank")
        await policy.open(question_prompt(Question(question.text, (picture,)), instruction=models.grammar.instruction))
    return session.prompt_tokens


def _no_template(policy: Unstarted, error: InputError) -> Finding:
    if policy.has_template:
        advice = "give another checkpoint, or mend the chat_template.jinja in its folder"
        return refused("chat template", error, advice)
    return Finding(
        name="chat template",
        state="refused",
        found=f"--policy {policy.model}: its tokenizer has no chat template",
        todo="give the instruction-tuned checkpoint of this model, or put its chat_template.jinja into the folder",
    )


def _made(model: Unstarted) -> str:
    return ", ".join(model.config.get("architectures") or ()) or "no architecture"


def _wrong_ability(prm_choice: PrmChoice, prm: Unstarted) -> Finding | None:
    """A format that reads what this model does not give."""
    if prm_choice.prm_format == prm_formats.AUTO:
        return None
    chosen = prm_formats.find(prm_choice.prm_format)
    if chosen.ability in prm.abilities:
        return None
    made = _made(prm)
    if chosen.ability == "head":
        why = f"reads a head, and config.json names {made}, which writes and has none"
        todo = "give the PRM's own checkpoint, or a --prm-format that reads labels"
        if (head := find_head(Path(prm.model).expanduser())) is not None:
            why += f", although its weights hold {head.tensor}"
            todo = (
                "write the architecture that this head belongs to, such as Qwen2ForProcessRewardModel, into config.json"
            )
        if prm_choice.is_adapter:
            todo = f"a head needs an engine of its own: {MERGE}"
    else:
        why = f"asks for tokens, and config.json names {made}, which has a head and writes none"
        todo = "give a --prm-format that reads a head, or --prm-format auto"
    return Finding(
        name="PRM format",
        state="refused",
        found=f"{'--prm-lora' if prm_choice.is_adapter else '--prm'} {prm.model}: PRM format {chosen.name!r} {why}",
        todo=todo,
        param="prm_format",
    )


def _pictures(settings: Settings, policy: Unstarted, prm: Unstarted | None, models: Models) -> Finding:
    name = "pictures"
    if not policy.sees_pictures:
        if settings.image_required:
            return Finding(
                name=name,
                state="refused",
                found=f"--policy {policy.model} reads text alone, and the server is to ask for a picture",
                todo="start it with --no-image-required, or give a vision-language model",
            )
        return Finding(name=name, state="ok", found="the policy reads text alone, and no question needs a picture")
    if prm is None:
        return Finding(name=name, state="ok", found="the policy sees them")
    if unseen := unseen_pictures(models):
        found, todo = unseen
        return Finding(name=name, state="warning", found=found, todo=todo, param="prm", is_logged=False)
    if not prm.sees_pictures:
        return Finding(
            name=name,
            state="refused" if settings.image_required else "warning",
            found=f"--prm {prm.model} reads text alone, and PRM format {models.prm_format!r} shows it pictures: no "
            "question can have one",
            todo="give a vision-language PRM, or a --prm-format for text alone",
            param="prm",
        )
    return Finding(name=name, state="ok", found="both models see them")


def _contexts(policy: Unstarted, prm: Unstarted | None, prompt_tokens: int) -> Finding:
    """Compares what fits with what a search may write. Too little for anything has been refused by then: nothing is
    rendered that does not fit."""
    name, sampling = "context lengths", Sampling()
    models = {"policy": policy} if prm is None else {"policy": policy, "prm": prm}
    lengths = {role: model.known_context_tokens for role, model in models.items()}
    names = {"policy": "policy", "prm": "PRM"}
    told = [f"{names[role]} {tokens:,} tokens" for role, tokens in lengths.items() if tokens is not None]
    if not told:
        return Finding(name=name, state="ok", found="the configs name none")
    most = sampling.step_tokens * sampling.max_steps
    found = f"{', '.join(told)}; a chain is {most:,} at most ({sampling.max_steps} steps of {sampling.step_tokens})"
    for role, tokens in lengths.items():
        if tokens is not None and tokens < prompt_tokens + sampling.step_tokens:
            return Finding(
                name=name,
                state="warning",
                found=f"{found}; beside a question the {names[role]} has no room for one step of that length",
                todo=f"ask for a smaller step_tokens{_or_raise(models[role])}",
                param=role,
            )
    own, judged = lengths["policy"], lengths.get("prm")
    if judged is not None and judged < min(own or most, prompt_tokens + most):
        return Finding(
            name=name,
            state="warning",
            found=f"{found}; what a chain writes behind the PRM's {judged:,} tokens is unscored",
            todo=f"lower --policy-max-model-len to the PRM's, or ask for fewer max_steps{_or_raise(models['prm'])}",
            param="prm",
        )
    return Finding(name=name, state="ok", found=found)


def _or_raise(model: Unstarted) -> str:
    """No model has a longer context than its own: only a limit that was set can be raised."""
    role = model.settings.role
    return "" if model.settings.max_model_len is None else f", or raise --{role}-max-model-len"
