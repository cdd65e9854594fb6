"""Recipes as YAML: from files, and those that ship with the package.

name: cos-tiny
seed: 0
threads: 2
stages:
  - stage: sft
    model: sight-policy/model
    ledger: {digits: policy}
    steps: 900
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from cos.search.errors import InputError
from cos.training.config.names import meant
from cos.training.config.overrides import keys_at, overridden
from cos.training.config.recipe import Recipe
from cos.training.data.splits import check_digits


def shipped() -> dict[str, str]:
    """The recipes that come with the package, as YAML text by name."""
    folder = resources.files("cos.training") / "recipes"
    found = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {entry.name.removesuffix(".yaml"): entry.read_text("utf-8") for entry in sorted(found, key=str)}


def load_recipe(config: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file, or one of the shipped by its name; ``overrides``: as
    `cos.training.config.overrides` has them.

    Errors: InputError naming file and key.
    """
    path = Path(config).expanduser()
    if path.is_file():
        text = _text(path)
    elif (known := shipped()).get(str(config)) is not None:
        text = known[str(config)]
    else:
        raise InputError(f"recipe {str(config)!r} is neither a file nor one of {', '.join(known)}", "config")
    return parse_recipe(text, str(config), overrides)


def _text(path: Path) -> str:
    """A file's text. Errors: InputError for one that cannot be read or is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"recipe {path} cannot be read: {error.strerror}", "config") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"recipe {path} is not UTF-8 text (line {line}: byte 0x{error.object[error.start]:02x}); save it as UTF-8",
            "config",
        ) from error


def parse_recipe(text: str, where: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from YAML text. Errors: InputError naming ``where`` and the key."""
    try:
        found = yaml.load(text, _NoDuplicates)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not YAML: {error}", "config") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: a recipe is a mapping with name and stages", "config")
    found = overridden(cast("dict[str, Any]", found), overrides)
    try:
        recipe = Recipe.model_validate(found)
    except ValidationError as error:
        raise InputError(f"{where}: {'; '.join(_complaints(error, found))}", "config") from error
    check_digits(recipe, where)
    return recipe


def _complaints(error: ValidationError, found: dict[str, Any]) -> list[str]:
    """What is wrong, each with its key; a stage is named rather than numbered."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        place = [str(part) for part in problem["loc"]]
        if len(place) > 1 and place[0] == "stages":
            stage = found["stages"][int(place[1])]
            kind = stage.get("name") or stage.get("stage") if isinstance(stage, dict) else None
            place = [f"stage {int(place[1]) + 1}" + (f" ({kind})" if kind else ""), *place[3:]]
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            key, section = str(problem["loc"][-1]), [str(part) for part in problem["loc"][2:-1]]
            message = f"there is no such key{meant(key, keys_at(section))}"
        if problem["type"] == "tuple_type":
            message = "a list is needed, in brackets"
        given = problem["input"]
        shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
        lines.append(f"{': '.join([place[0], '.'.join(place[1:])]) if place[1:] else ''.join(place)}: {message}{shown}")
    return lines


class _NoDuplicates(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
        twice = [key for key, count in keys.items() if count > 1 and key != "<<"]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)
