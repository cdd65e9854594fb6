"""Keys of a recipe given on the command line: ``--set sft.learning_rate=1e-5``, ``--set rounds.dpo.beta=0.2``,
``--set seed=1``. They take the place of what the file says, before anything is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel

from cos.search.errors import InputError
from cos.training.config.names import meant
from cos.training.config.recipe import Recipe, StageConfig, folder_name, stage_kinds


def overridden(found: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe as YAML gives it, with ``overrides`` (``STAGE.KEY=VALUE`` or ``KEY=VALUE``, the value as YAML).

    Errors: InputError for a stage, section or key that there is not, naming the nearest, and a value that is not YAML.
    """
    recipe = dict(found)
    given = recipe.get("stages")
    stages = [dict(one) if isinstance(one, dict) else one for one in given] if isinstance(given, list) else []
    recipe |= {"stages": stages} if stages else {}
    for text in overrides:
        place, equals, value = text.partition("=")
        if not (place.strip() and equals):
            raise InputError(f"--set {text!r}: give STAGE.KEY=VALUE, as in --set sft.learning_rate=1e-5", "set")
        try:
            meaning = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {text!r}: the value is not YAML: {error}", "set") from error
        _put(recipe, [one for one in stages if isinstance(one, dict)], text, place.strip(), meaning)
    return recipe


def concerns(override: str, stage: StageConfig) -> bool:
    """Whether an override is of this stage, or of all."""
    place = override.partition("=")[0].strip()
    return "." not in place or place.startswith((f"{folder_name(stage)}.", f"{stage.stage}."))


def keys_at(place: Sequence[str]) -> list[str]:
    """The keys that a section of a recipe knows. ``place``: a stage's kind and the keys down to the section; empty for
    the recipe's own. Empty where there is no such section."""
    section: type[BaseModel] | None = Recipe
    for number, part in enumerate(place):
        if number == 0:
            section = stage_kinds().get(part)
        elif section is not None:
            field = section.model_fields.get(part)
            section = None if field is None else _section(field.annotation)
    return [] if section is None else [key for key in section.model_fields if key != "stages"]


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part)) is not None), None)


def _put(recipe: dict[str, Any], stages: Sequence[dict[str, Any]], text: str, place: str, value: Any) -> None:
    """Sets one key in place."""
    if "." not in place:
        if place not in keys_at(()):
            raise InputError(f"--set {text!r}: a recipe has no key {place!r}{meant(place, keys_at(()))}", "set")
        recipe[place] = value
        return
    stage, rest = _stage(stages, text, place)
    *sections, key = rest.split(".")
    target, kind = stage, str(stage.get("stage"))
    for number, name in enumerate((*sections, key)):
        known = keys_at((kind, *sections[:number]))
        if name not in known or name == "stage":
            within = ".".join((_name(stage), *sections[:number]))
            raise InputError(f"--set {text!r}: {within} has no key {name!r}{meant(name, known)}", "set")
        if number < len(sections):
            inner = target.get(name)
            target[name] = dict(cast("dict[str, Any]", inner)) if isinstance(inner, dict) else {}
            target = target[name]
    target[key] = value


def _stage(stages: Sequence[dict[str, Any]], text: str, place: str) -> tuple[dict[str, Any], str]:
    """The stage that a place is in, by its name (which may have dots) or its kind, and the rest of the place."""
    for name_of in (_name, _kind):
        found = [stage for stage in stages if place.startswith(f"{name_of(stage)}.")]
        longest = max((len(name_of(stage)) for stage in found), default=0)
        found = [stage for stage in found if len(name_of(stage)) == longest]
        if len(found) > 1:
            raise InputError(
                f"--set {text!r}: the recipe has several such stages; say which of {', '.join(map(_name, found))}",
                "set",
            )
        if found:
            return found[0], place[longest + 1 :]
    names = [_name(stage) for stage in stages]
    asked = place.partition(".")[0]
    raise InputError(
        f"--set {text!r}: the recipe has no stage {asked!r}; it has {', '.join(names)}{meant(asked, names)}", "set"
    )


def _kind(stage: Mapping[str, Any]) -> str:
    return str(stage.get("stage"))


def _name(stage: Mapping[str, Any]) -> str:
    return str(stage.get("name") or stage.get("stage"))
