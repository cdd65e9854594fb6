"""``cos bench reproduce``: measures what is asked for, and writes the report of all that is known."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import typer

from cos.benchmarks.pool import Pool
from cos.benchmarks.report import json_line
from cos.benchmarks.reproduce import paper, plots
from cos.benchmarks.reproduce.findings import Section
from cos.benchmarks.reproduce.judging import accuracy_section, labels_section, read_facts
from cos.benchmarks.reproduce.measures import Bench, LazyModels, ModelNames, identity, pools, rescored, searches
from cos.benchmarks.reproduce.policies import (
    REWARDS,
    PolicyResult,
    policy_result,
    rewards_section,
    rounds_section,
    steps_section,
)
from cos.benchmarks.reproduce.report import Origin, facts, markdown
from cos.benchmarks.reproduce.scaling import scaling_of, scaling_section, weight_shares, weights_section
from cos.evaluation.files import free_lock, replacing, take_lock
from cos.evaluation.provenance import Facts, provenance
from cos.search.errors import InputError

PARTS = ("scaling", "beam", "weights", "rounds", "rewards", "steps", "labels", "accuracy")
"""What can be measured alone. ``scaling`` draws the pools that ``weights`` and ``labels`` pick from."""
JUDGED_WIDTH = 8
"""Chains a problem that further PRMs read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the report is about."""

    policy: str
    prm: str
    rounds: tuple[tuple[str, str], ...] = ()
    """Name and checkpoint of the SFT policy, then of every round of DPO."""
    rewards: Mapping[str, str] = field(default_factory=dict[str, str])
    """Checkpoints after one round of DPO, by what chose the pairs."""
    prms: Mapping[str, str] = field(default_factory=dict[str, str])
    """PRMs by the source of their labels."""
    evaluation: Path | None = None
    labels: Path | None = None
    remarks: Path | None = None
    """Markdown to stand in the report."""
    pool: int = 32
    samples: int = 4
    """Chains a problem by which policies are compared."""
    only: frozenset[str] = frozenset(PARTS)
    report: Path
    command: str


@dataclass
class _Plots:
    """Plots written so far."""

    folder: Path
    written: list[Path] = field(default_factory=list[Path])

    def path(self, name: str) -> Path:
        self.written.append(self.folder / name)
        return self.written[-1]


async def run_reproduce(inputs: Inputs, bench: Bench, *, json_only: bool) -> None:
    """Measures the parts that are asked for, takes over what earlier runs have measured, writes report and plots, and
    prints one JSON line.

    Errors: InputError for inputs that cannot be read, models that do not start, or a work folder that another run
    holds; EngineDead.
    """
    # Files are read first: a slip in a name shows before hours of sampling.
    sections = {"accuracy": _accuracy(inputs)}
    labels = None if inputs.labels is None else read_facts(inputs.labels, "labels")
    remarks = _text(inputs.remarks)
    drawing = _Plots(inputs.report.parent / inputs.report.stem)
    bench.work.mkdir(parents=True, exist_ok=True)
    take_lock(bench.work)
    try:
        async with AsyncExitStack() as stack:
            models = LazyModels(ModelNames(inputs.policy, inputs.prm), stack)
            drawn, found = await _search_sections(inputs, bench, models, drawing)
            sections |= found
        sections |= await _policy_sections(inputs, bench, drawing)
        sections["labels"] = await _labels(inputs, bench, labels, drawn)
    finally:
        free_lock(bench.work)
    ordered = [sections[name] for name in PARTS if name in sections]
    origin = Origin(
        command=inputs.command,
        problems=len(bench.problems),
        seed=bench.seed,
        temperature=bench.temperature,
        top_p=bench.top_p,
        commits=tuple(sorted(bench.commits)),
        provenance=provenance(inputs.policy, inputs.prm),
    )
    inputs.report.parent.mkdir(parents=True, exist_ok=True)
    with replacing(inputs.report) as file:
        file.write(markdown(ordered, origin, drawing.folder.name, remarks))
    found: Facts = facts(ordered, origin, inputs.report, drawing.written)
    if not json_only:
        for finding in found["findings"]:
            typer.echo(f"{finding['verdict']:>34}  {finding['claim']}", err=True)
    typer.echo(json_line(found))


def _asked(bench: Bench, inputs: Inputs, *parts: str) -> Bench:
    """The bench for a part: one that only takes over when none of these parts is asked for."""
    return bench if inputs.only & set(parts) else replace(bench, stored_only=True)


def _missing(name: str, title: str, why: str) -> Section:
    return Section(name=name, title=title, missing=why)


def _not_yet(part: str) -> str:
    return f"not measured with these checkpoints and settings yet; `--only {part}` does it"


async def _search_sections(
    inputs: Inputs, bench: Bench, models: LazyModels, drawing: _Plots
) -> tuple[list[Pool] | None, dict[str, Section]]:
    drawn = await pools(_asked(bench, inputs, "scaling", "weights"), models, inputs.pool, scored=True)
    greedy = await searches(_asked(bench, inputs, "scaling", "beam"), models, "greedy", None)
    beams: dict[int, list[float]] = {}
    for width in paper.WIDTHS[1:]:
        if width <= inputs.pool:
            records = await searches(_asked(bench, inputs, "beam"), models, "beam", width)
            if records is not None:
                beams[width] = [float(record.is_right) for record in records]
    if drawn is None or greedy is None:
        return drawn, {
            "scaling": _missing("scaling", "Accuracy over the number of chains", _not_yet("scaling,beam")),
            "weights": _missing("weights", "Step weight", _not_yet("weights")),
        }
    scaling = scaling_of(drawn, inputs.pool, [float(record.is_right) for record in greedy], beams, bench.seed)
    plots.plot_scaling(drawing.path("scaling.png"), scaling)
    width = min(16, inputs.pool)
    shares = weight_shares(drawn, inputs.pool, width)
    plots.plot_weights(drawing.path("weights.png"), shares, width, bench.seed)
    return drawn, {
        "scaling": scaling_section(scaling, inputs.pool),
        "weights": weights_section(shares, width, bench.seed),
    }


async def _measured(inputs: Inputs, bench: Bench, name: str, model: str) -> PolicyResult | None:
    """One policy's greedy and sampled answers."""
    async with AsyncExitStack() as stack:
        models = LazyModels(ModelNames(model), stack)
        greedy = await searches(bench, models, "greedy", None)
        samples = await pools(bench, models, inputs.samples, scored=False)
    if greedy is None or samples is None:
        return None
    return policy_result(name, identity("policy", model), greedy, samples, inputs.samples)


async def _policy_sections(inputs: Inputs, bench: Bench, drawing: _Plots) -> dict[str, Section]:
    titles = {"rounds": "SFT and rounds of DPO", "steps": "Steps a chain", "rewards": "What chooses the pairs"}
    found: dict[str, Section] = {}
    rounds: list[PolicyResult | None] = []
    for name, model in inputs.rounds:
        rounds.append(await _measured(inputs, _asked(bench, inputs, "rounds", "steps"), name, model))
    whole = [policy for policy in rounds if policy is not None]
    rewards: dict[str, PolicyResult | None] = {}
    for name, model in inputs.rewards.items():
        rewards[name] = await _measured(inputs, _asked(bench, inputs, "rewards"), REWARDS[name], model)
    measured_rewards = {name: policy for name, policy in rewards.items() if policy is not None}
    if len(whole) > 1 and len(whole) == len(rounds):
        found["rounds"] = rounds_section(whole, bench.seed)
        found["steps"] = steps_section(whole, measured_rewards.get("outcome"), bench.seed)
        plots.plot_policies(drawing.path("rounds.png"), whole, titles["rounds"], bench.seed)
        plots.plot_steps(drawing.path("steps.png"), whole, bench.seed)
    else:
        why = _not_yet("rounds") if len(rounds) > 1 else "give the SFT policy and its rounds of DPO: --rounds SFT,DPO1"
        found |= {name: _missing(name, titles[name], why) for name in ("rounds", "steps")}
    if measured_rewards and len(measured_rewards) == len(rewards) and whole:
        found["rewards"] = rewards_section(whole[0], measured_rewards, bench.seed)
        policies = [whole[0], *measured_rewards.values()]
        plots.plot_policies(drawing.path("rewards.png"), policies, titles["rewards"], bench.seed)
    else:
        why = "give one policy a reward, --rewards prm=DIR,answer=DIR,outcome=DIR, and the SFT policy first in --rounds"
        found["rewards"] = _missing("rewards", titles["rewards"], _not_yet("rewards") if rewards and whole else why)
    return found


async def _labels(inputs: Inputs, bench: Bench, labels: Facts | None, drawn: Sequence[Pool] | None) -> Section:
    title = "Monte-Carlo and exact labels"
    if labels is None and not inputs.prms:
        return _missing("labels", title, "give the label stage's done.json, --labels FILE, or --prms exact=DIR,...")
    if inputs.prms and drawn is None and labels is None:
        return _missing("labels", title, "PRMs are compared on the pools that `--only scaling` draws")
    judged: dict[str, list[Pool]] = {}
    width = min(JUDGED_WIDTH, inputs.pool)
    for name, model in inputs.prms.items():
        if drawn is None:
            break
        async with AsyncExitStack() as stack:
            models = LazyModels(ModelNames(inputs.policy, model), stack)
            found = await rescored(_asked(bench, inputs, "labels"), models, drawn, width)
        if found is not None:
            judged[name] = found
    if labels is None and not judged:
        return _missing("labels", title, _not_yet("labels"))
    return labels_section(labels, judged, width, bench.seed)


def _text(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"--remarks {path}: cannot be read: {error.strerror}", "remarks") from error


def _accuracy(inputs: Inputs) -> Section:
    if inputs.evaluation is None:
        why = "give what `cos train evaluate` wrote: --evaluation FILE"
        return _missing("accuracy", "Step and answer accuracy of the PRM", why)
    return accuracy_section(read_facts(inputs.evaluation, "evaluation"))


def parse_named(text: str | None, option: str, known: Sequence[str] = ()) -> dict[str, str]:
    """``a=X,b=Y`` by name. Errors: InputError."""
    found: dict[str, str] = {}
    for part in (text or "").split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals or not name or not value or name in found:
            raise InputError(f"--{option} {text}: {part!r} is no NAME=FOLDER of its own", option)
        if known and name not in known:
            raise InputError(f"--{option} {text}: unknown name {name!r}; there are {', '.join(known)}", option)
        found[name] = value
    return found


def parse_rounds(text: str | None) -> tuple[tuple[str, str], ...]:
    """``SFT,DPO1,DPO2`` as named policies, in order; each may be NAME=FOLDER."""
    found: list[tuple[str, str]] = []
    for number, part in enumerate((text or "").split(",") if text else []):
        name, equals, value = part.partition("=")
        found.append((name, value) if equals else ("SFT" if number == 0 else f"DPO round {number}", part))
    return tuple(found)


def parse_parts(text: str | None) -> frozenset[str]:
    """Parts by name, all unless given. Errors: InputError."""
    if text is None:
        return frozenset(PARTS)
    found = frozenset(part.strip() for part in text.split(","))
    unknown = sorted(found - set(PARTS))
    if unknown:
        raise InputError(f"--only {text}: unknown part {unknown[0]!r}; there are {', '.join(PARTS)}", "only")
    return found
