"""A search on the terminal: its tree while it grows, and the answer with its chain and cost.

Text of a model is never markup here, and its control characters never reach the terminal.
"""

import io
import math
import re
from collections.abc import Iterable
from pathlib import Path as FilePath

from rich.console import Console, Group, RenderableType
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cos.wire.reply import Answered, Event, Node, Opened, Path, Scored, Selected, Solution, Usage, Written

GOOD, FAIR = 0.8, 0.5
"""From these scores on green, and yellow."""
LABEL_CHARS = 60
PICTURE_COLUMNS = 110


class LiveSearch:
    """A search under way, as something that rich can draw."""

    def __init__(self) -> None:
        self._nodes: dict[Path, Node] = {}
        self._pruned: set[Path] = set()
        self._is_likelihood = False
        self._spinner = Spinner("dots", "opening the question")

    def take(self, event: Event) -> None:
        """Draws one event in."""
        match event:
            case Opened():
                self._is_likelihood = is_likelihood(event.parameters)
            case Written():
                self._nodes[event.node.path] = event.node
            case Scored(path=path, score=score) if path in self._nodes:
                self._nodes[path] = self._nodes[path].model_copy(update={"score": score})
            case Selected():
                self._pruned.update(event.pruned)
            case Scored() | Answered():
                pass

    def __rich__(self) -> RenderableType:
        self._spinner.update(text=self.status)
        dead = {path for path in self._nodes if any(path[: len(pruned)] == pruned for pruned in self._pruned)}
        tree = search_tree(self._nodes.values(), set(), dead, likelihood=self._is_likelihood)
        return Group(self._spinner, tree)

    @property
    def status(self) -> str:
        """How far it is."""
        scores = [node.score for node in self._nodes.values() if node.score is not None]
        best = f", best {max(scores):.3f}" if scores else ""
        depth = max(map(len, self._nodes), default=0)
        return f"depth {depth}, {len(self._nodes)} candidates, {len(scores)} scored{best}"


def is_likelihood(parameters: dict[str, object]) -> bool:
    """Whether scores are log-probabilities."""
    return parameters.get("score") == "likelihood"


def show_solution(console: Console, solution: Solution, *, tree: bool) -> None:
    """The tree, the winning chain, the answer and the cost."""
    likelihood = is_likelihood(solution.parameters)
    if tree and solution.tree:
        winners = {node.path for node in solution.tree if node.kept}
        losers = {node.path for node in solution.tree if not node.kept}
        console.print(search_tree(solution.tree, winners, losers, likelihood=likelihood))
    console.print(chain_table(solution))
    console.print(summary(solution))


def draw_solution(path: FilePath, title: str, solution: Solution, *, tree: bool) -> None:
    """The same as an SVG picture of a terminal."""
    console = Console(record=True, width=PICTURE_COLUMNS, file=io.StringIO(), force_terminal=True)
    show_solution(console, solution, tree=tree)
    # A picture that loads nothing from anywhere: the viewer's own fixed-width font will do.
    drawn = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title=printable(title)), flags=re.DOTALL)
    path.write_text(drawn, encoding="utf-8")


def search_tree(nodes: Iterable[Node], winners: set[Path], losers: set[Path], *, likelihood: bool) -> Tree:
    """The tree of a search: winners bold green, losers dim."""
    root = Tree("search", guide_style="dim")
    branches: dict[Path, Tree] = {(): root}
    for node in sorted(nodes, key=lambda node: node.path):
        style = "bold green" if node.path in winners else "dim" if node.path in losers else ""
        parent = branches.get(node.path[:-1], root)
        branches[node.path] = parent.add(_label(node, style, likelihood=likelihood))
    return root


def _label(node: Node, style: str, *, likelihood: bool) -> Text:
    if node.answer is not None:
        said = f"Answer: {node.answer}"
    elif node.name is None:
        said = f"({node.end}) {node.excerpt or ''}"
    else:
        said = f"{node.name}: {node.thought}" if node.thought else node.name
    label = Text(_short(said), style)
    label.append("  ")
    label.append(score_text(node.score, likelihood=likelihood))
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
    table = Table("#", "step", "thought", title="Winning chain", title_justify="left")
    table.add_column("score", justify="right")
    for step in solution.steps:
        thought = step.thought if step.thought is not None else step.excerpt
        table.add_row(
            str(step.index),
            Text(printable(step.name or f"({step.end})")),
            Text(printable(thought or "")),
            score_text(step.score, likelihood=likelihood),
        )
    if solution.answer is not None:
        answer = Text(printable(solution.answer), "bold")
        table.add_row("", "Answer", answer, score_text(solution.answer_score, likelihood=likelihood))
    return table


def fates(usage: Usage) -> str:
    """What became of the generated tokens; what became of none goes unsaid, except kept and discarded."""
    seldom = (("duplicate", usage.tokens_duplicate), ("asked", usage.tokens_asked), ("aborted", usage.tokens_aborted))
    told = (("kept", usage.tokens_kept), ("discarded", usage.tokens_discarded), *(pair for pair in seldom if pair[1]))
    return ", ".join(f"{tokens} {fate}" for fate, tokens in told)


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
        f"\nCost: {usage.tokens_generated} tokens ({fates(usage)}), "
        f"{usage.candidates} candidates, {usage.prm_reads} PRM reads"
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
