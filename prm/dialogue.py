"""A PRM format that a user words in a YAML file, for a PRM that nobody foresaw: ``--prm-format my_prm.yaml``."""

from collections import Counter
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cos.prm.worded import WordedPrm
from cos.prm.wording import Wording
from cos.search.errors import InputError
from cos.search.extras import needs

SUFFIXES = (".yaml", ".yml")
_PARAM = "prm_format"


def is_file(name: str) -> bool:
    """Whether the name of a format is that of a file."""
    return name.endswith(SUFFIXES)


def of_file(name: str) -> type[WordedPrm]:
    """The format that a file words, by the file's name. Errors: InputError naming the file, the key and the fix."""
    wording = parsed(_text_of(name), name)
    return type(
        "Dialogue", (WordedPrm,), {"__doc__": f"Words chains as {name} has it.", "name": name, "wording": wording}
    )


def parsed(text: str, where: str) -> Wording:
    """A wording from YAML. ``where``: what errors call it. Errors: as `of_file`."""
    with needs("serve", "a PRM format in a YAML file"):
        import yaml
    fault = partial(_fault, where)
    try:
        twice = _given_twice(yaml.compose(text, Loader=yaml.SafeLoader))
        found: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise fault(f"it is no YAML: {error}") from error
    if twice:
        raise fault(f"{twice}: it is given twice; keep one")
    if not isinstance(found, dict):
        raise fault('it is no list of keys; write lines such as `good: "+"`')
    try:
        return Wording.model_validate(found)
    except ValidationError as error:
        raise fault("; ".join(_complaint(problem) for problem in error.errors(include_url=False))) from error


def _text_of(name: str) -> str:
    fault = partial(_fault, name)
    try:
        return Path(name).expanduser().read_text("utf-8")
    except FileNotFoundError as error:
        raise fault(f"there is no such file in {Path.cwd()}; give its path") from error
    except UnicodeDecodeError as error:
        raise fault("it is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise fault(f"it cannot be read ({error.strerror})") from error


def _fault(where: str, what: str) -> InputError:
    return InputError(f"PRM format {where}: {what}", _PARAM)


def _given_twice(node: Any) -> str:
    """A key of a mapping that is there twice; empty where there is none."""
    pairs = node.value if getattr(node, "id", "") == "mapping" else []
    keys = Counter(str(key.value) for key, _ in pairs)
    return next((key for key, count in keys.items() if count > 1), "")


def _complaint(problem: Any) -> str:
    """What is wrong with a key, and what would be right."""
    key = ".".join(map(str, problem["loc"]))
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:
        return message  # A rule over several keys, which begins with the one that is to be changed.
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(key, Wording.model_fields, n=1)
        instead = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(Wording.model_fields))}"
        return f"{key}: there is no such key; {instead}"
    if problem["type"] == "missing":
        return f"{key}: it is missing; add it"
    given = problem["input"]
    hint = ""
    if problem["type"] == "string_type":
        hint = f'; put it in quotes: {key}: "{_as_typed(given)}"'
    return f"{key}: {message} (given: {given!r}){hint}"


def _as_typed(value: Any) -> str:
    """What YAML took for a number or for yes or no, as it may have been written."""
    return {True: "Yes", False: "No"}[value] if isinstance(value, bool) else str(value)
