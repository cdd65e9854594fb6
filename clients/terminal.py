"""A search on the terminal: its tree while it grows, and the answer with its chain and cost.

Text of a model is never markup here, and its control characters never reach the terminal.
"""

import math
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cos.search.types import Path
from cos.wire.events import Answered, Event, Opened, Proposed, Scored, Selected
from cos.wire.reply import Candidate, Solution, Usage

GOOD, FAIR = 0.8, 0.5
"""From these scores on green, and yellow."""
LABEL_CHARS = 60


class LiveSearch:
    """A search under way, as something that rich can draw."""

    def __init__(self) -> None:
        self._candidates: dict[Path, Candidate] = {}
        self._pruned: set[Path] = set()
        self._is_likelihood = False
        self._spinner = Spinner("dots", "opening the question")

    def take(self, event: Event) -> None:
        """Draws one event in."""
        match event:
            case Opened():
                self._is_likelihood = is_likelihood(event.parameters)
            case Proposed(candidate=candidate):
                self._candidates[candidate.path] = candidate
            case Scored(path=path, score=score) if path in self._candidates:
                self._candidates[path] = self._candidates[path].model_copy(update={"score": score})
            case Selected():
                self._pruned.update(event.pruned)
            case Scored() | Answered():
                pass

    def __rich__(self) -> RenderableType:
        self._spinner.update(text=self.status)
        dead = {path for path in self._candidates if any(path[: len(pruned)] == pruned for pruned in self._pruned)}
        tree = search_tree(self._candidates.values(), set(), dead, likelihood=self._is_likelihood)
        return Group(self._spinner, tree)

    @property
    def status(self) -> str:
        """How far it is."""
        scores = [found.score for found in self._candidates.values() if found.score is not None]
        best = f", best {max(scores):.3f}" if scores else ""
        depth = max(map(len, self._candidates), default=0)
        return f"depth {depth}, {len(self._candidates)} candidates, {len(scores)} scored{best}"


def is_likelihood(parameters: dict[str, object]) -> bool:
    """Whether scores are log-probabilities."""
    return parameters.get("score") == "likelihood"


def show_solution(console: Console, solution: Solution, *, tree: bool) -> None:
    """The tree, the winning chain, the answer and the cost."""
    likelihood = is_likelihood(solution.parameters)
    if tree and solution.tree:
        winners = {candidate.path for candidate in solution.tree if candidate.kept}
        losers = {candidate.path for candidate in solution.tree if not candidate.kept}
        console.print(search_tree(solution.tree, winners, losers, likelihood=likelihood))
    console.print(chain_table(solution))
    console.print(summary(solution))


def search_tree(candidates: Iterable[Candidate], winners: set[Path], losers: set[Path], *, likelihood: bool) -> Tree:
    """The tree of a search: winners bold green, losers dim."""
    root = Tree("search", guide_style="dim")
    branches: dict[Path, Tree] = {(): root}
    for candidate in sorted(candidates, key=lambda candidate: candidate.path):
        style = "bold green" if candidate.path in winners else "dim" if candidate.path in losers else ""
        parent = branches.get(candidate.path[:-1], root)
        branches[candidate.path] = parent.add(_label(candidate, style, likelihood=likelihood))
    return root


def _label(candidate: Candidate, style: str, *, likelihood: bool) -> Text:
    if candidate.answer is not None:
        text = f"Answer: {candidate.answer}"
    elif candidate.end in ("step", "max_steps", "repeated"):
        text = candidate.text
    else:
        text = f"({candidate.end}) {candidate.text}"
    label = Text(_short(text), style)
    label.append("  ")
    label.append(score_text(candidate.score, likelihood=likelihood))
    return label


def score_text(score: float | None, *, likelihood: bool) -> Text:
    """A score in its colour; a log-probability in that of its probability."""
    if score is None:
        return Text("unscored", "dim")
    share = math.exp(min(0.0, score)) if likelihood else score
    return Text(f"{score:.3f}", "green" if share >= GOOD else "yellow" if share >= FAIR else "red")


def chain_table(solution: Solution) -> Table:
    """The winning chain, step by step."""
    likelihood = is_likelihood(solution.parameters)
    table = Table("#", "step", title="Winning chain", title_justify="left")
    table.add_column("score", justify="right")
    for number, step in enumerate(solution.steps, 1):
        text = step.text if step.end == "step" else f"({step.end}) {step.text}"
        score = score_text(step.score, likelihood=likelihood) if solution.has_step_scores else ""
        table.add_row(str(number), Text(printable(text)), score)
    for part in solution.answer_fields.values():
        table.add_row("", Text(printable(part)), "")
    if solution.answer is not None:
        answer = Text(f"Answer: {printable(solution.answer)}", "bold")
        table.add_row("", answer, score_text(solution.answer_score, likelihood=likelihood))
    return table


def token_counts(usage: Usage) -> str:
    """How many tokens were kept and discarded, and of the other kinds those of which there were any."""
    seldom = {
        "duplicate": usage.tokens_duplicate,
        "asked": usage.tokens_asked,
        "aborted": usage.tokens_aborted,
    }
    counts = {"kept": usage.tokens_kept, "discarded": usage.tokens_discarded}
    counts |= {kind: tokens for kind, tokens in seldom.items() if tokens}
    return ", ".join(f"{tokens} {kind}" for kind, tokens in counts.items())


def summary(solution: Solution) -> Text:
    """The answer, how sure it is, what it cost and why the search ended."""
    usage, likelihood = solution.usage, is_likelihood(solution.parameters)
    text = Text()
    if solution.answer is None:
        text.append(f"No whole answer ({solution.finish_reason})", "bold red")
    else:
        text.append("Answer: ").append(printable(solution.answer), "bold green")
    text.append("\nChain score: ").append(score_text(solution.chain_score, likelihood=likelihood))
    if likelihood and solution.confidence is not None:
        text.append(f" (log-probability; mean probability of a token {solution.confidence:.3g})")
    text.append(
        f"\nCost: {usage.tokens_generated} tokens ({token_counts(usage)}), "
        f"{usage.candidates} candidates, {usage.prm_reads} PRM reads"
        + (f" for which the PRM wrote {usage.prm_tokens_generated} tokens" if usage.prm_tokens_generated else "")
    )
    text.append(f"\nFinished: {solution.finish_reason}, after {solution.timings.total_s:.2f} s of {solution.strategy}")
    for warning in solution.warnings:
        text.append("\nWarning: ", "yellow").append(printable(warning))
    return text


def printable(text: str) -> str:
    """The text without control characters, on one line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _short(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= LABEL_CHARS else f"{shown[: LABEL_CHARS - 1]}…"
