"""Whose labels a recipe's stages ask for, and whether they will be there: reported before hours of sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cos.search.errors import InputError
from cos.training.config.recipe import LabelConfig, Recipe, RolloutConfig, StageConfig, folder_name
from cos.training.config.references import Reference, references
from cos.training.data.rows import ChainRow, PairRow, ProblemRow
from cos.training.menu import generated_task


def label_faults(
    recipe: Recipe, stage: StageConfig, named: Sequence[Reference], rows: Sequence[ChainRow | PairRow | ProblemRow]
) -> Iterator[str]:
    """What is wrong with the labels that a stage asks for, a sentence each.

    ``named``: what the stage names; ``rows``: those of its rows that are here.
    """
    match stage.stage:
        case "label":
            if "exact" in stage.sources:
                yield from _not_checkable(rows)
        case "rollout":
            if any("exact" in later.sources for later in _labelling(recipe, stage)):
                yield from _not_checkable(rows)
        case "prm" | "evaluate":
            if stage.stage == "prm" and stage.ledger is not None:
                return
            chains = [row for row in rows if isinstance(row, ChainRow)]
            others = sorted({source for row in chains for source in row.labels})
            if chains and all(stage.labels not in row.labels for row in chains):
                fix = f"set labels: {others[0]}" if others else "run the stage `label` on them"
                yield (
                    f"labels: none of {len(chains)} chains has labels by {stage.labels!r} (they have "
                    f"{', '.join(others) or 'none at all'}); {fix}"
                )
            for maker in _makers(recipe, named):
                if stage.labels not in maker.sources and _draws(recipe, maker):
                    yield (
                        f"labels: the stage {folder_name(maker)!r} labels by {', '.join(maker.sources)} and not "
                        f"by {stage.labels!r}; set labels: {maker.sources[0]}"
                    )
        case _:
            return


def _not_checkable(rows: Sequence[ChainRow | PairRow | ProblemRow]) -> Iterator[str]:
    """What the exact checker says of the first row that it cannot label."""
    for row in rows:
        try:
            generated_task().check_own(row if isinstance(row, ProblemRow) else row.problem)
        except InputError as error:
            yield f"sources: {error}"
            return


def _labelling(recipe: Recipe, stage: RolloutConfig) -> Iterator[LabelConfig]:
    """The stages that label what a rollout is to write."""
    for later in recipe.stages:
        if isinstance(later, LabelConfig) and any(
            one.state == "planned" and one.to == "chains" and one.maker == folder_name(stage)
            for one in references(recipe, later)
        ):
            yield later


def _makers(recipe: Recipe, named: Sequence[Reference]) -> Iterator[LabelConfig]:
    """The stages that are yet to label what is named."""
    for one in named:
        maker = recipe.find(one.maker) if one.state == "planned" and one.maker else None
        if isinstance(maker, LabelConfig):
            yield maker


def _draws(recipe: Recipe, stage: LabelConfig) -> bool:
    """Whether what is labelled is all to be drawn by a rollout: such chains have no labels from elsewhere."""
    named = [one for one in references(recipe, stage) if one.to == "chains"]
    makers = [recipe.find(one.maker) if one.state == "planned" and one.maker else None for one in named]
    return all(isinstance(maker, RolloutConfig) for maker in makers)
