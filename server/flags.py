"""The command line of ``cos-serve``: flags, variables and a YAML file become `Settings`; a bad one names itself."""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from cos.server.settings import Settings

PROGRAM = "cos-serve"
_OTHERS = {"--model": "--policy", "--gpu-memory-utilization": "--memory-utilization"}
"""What those write who come from ``vllm serve``, and what it is called here."""
USAGE = "%(prog)s [--policy MODEL] [--prm MODEL] [flags]"
ABOUT = "Answers questions about images by PRM-guided search over a vision-language model's steps."
_GROUPS = ("models", "engines", "policy engine", "PRM engine", "search", "limits", "server")
_OWN = {
    "policy engine": "For the policy alone. Each wins over the flag above without 'policy' in its name.",
    "PRM engine": "The same for the PRM.",
}
"""Groups of flags that need no words of their own."""


class _Parser(argparse.ArgumentParser):
    """Tells a mistyped flag what it may have meant."""

    def error(self, message: str) -> NoReturn:
        complain(message, self.prog)


def complain(message: str, program: str = PROGRAM) -> NoReturn:
    """Ends the program over something its caller can put right."""
    sys.stderr.write(f"{program}: {message}\n")
    raise SystemExit(2)


def load_settings(
    arguments: Sequence[str], *, program: str = PROGRAM, usage: str = USAGE, about: str = ABOUT
) -> Settings:
    """Settings from flags, environment and YAML. Ends the program (code 2) on a bad one, naming it. ``usage`` and
    ``about`` are for its ``--help``."""
    config = _config_file(arguments, program)

    class WithYaml(Settings):
        # Dashes on the command line only: variables and YAML keys keep the fields' names.
        model_config = SettingsConfigDict(
            cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True, cli_avoid_json=True
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            yaml_settings = [] if config is None else [YamlConfigSettingsSource(settings_cls, config)]
            return (init_settings, env_settings, *yaml_settings)

    flags: CliSettingsSource[Any] = CliSettingsSource(
        WithYaml,
        root_parser=_parser(program, usage, about),
        add_argument_method=_add_argument,
        parse_args_method=_parse,
        cli_parse_args=list(arguments),
    )
    try:
        return WithYaml(_cli_settings_source=flags)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        complain(_told(error, config), program)


def _config_file(arguments: Sequence[str], program: str) -> Path | None:
    """The YAML file, which must be known before everything else."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config", default=os.environ.get("COS_CONFIG"))
    try:
        name = first.parse_known_args(arguments)[0].config
    except argparse.ArgumentError:
        # A --config without its value: the real parser says so.
        return None
    if name is None:
        return None
    path = Path(name).expanduser()
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        complain(f"--config {name}: {error.strerror}; give a readable YAML file", program)
    except yaml.YAMLError as error:
        complain(f"--config {name}: not YAML: {error}", program)
    if not isinstance(content, dict | None):
        complain(f"--config {name}: expected one 'setting: value' a line", program)
    return path


def _parser(program: str, usage: str, about: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        usage=usage,
        description=about,
        epilog="Every flag is also a variable (--max-n: COS_MAX_N) and a key of the --config file (max_n). "
        "A flag wins over a variable, a variable over the file.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    parser.add_argument("--version", action="version", version=f"{program} {version('cos-serve')}")
    for group in _GROUPS:
        parser.add_argument_group(group, _OWN.get(group))
    return parser


def _add_argument(parser: Any, *names: str, **options: Any) -> Any:
    """One field as a flag, in its group, with its placeholder and its default."""
    if options.get("action") == "help":
        return None
    field = Settings.model_fields[options["dest"]]
    place: Any = field.json_schema_extra
    group = next(group for group in parser._action_groups if group.title == place["group"])
    options["help"] = None if place["group"] in _OWN else _help(field)
    if options.get("action") is not argparse.BooleanOptionalAction:
        choices = _choices(field)
        options["metavar"] = "{" + ",".join(choices) + "}" if choices else place["metavar"]
    # Pydantic-settings gives a field of one letter a single dash.
    return group.add_argument(*(name if name.startswith("--") else f"-{name}" for name in names), **options)


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split()).replace("%", "%%")
    default = field.default
    if isinstance(default, bool):
        default = "on" if default else "off"
    if default in (None, "", ()):
        return text
    return f"{text} (default: {default:g})" if isinstance(default, int | float) else f"{text} (default: {default})"


def _choices(field: FieldInfo) -> tuple[str, ...]:
    kinds = (field.annotation, *get_args(field.annotation))
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, namespace: Any = None) -> Any:
    found, unknown = parser.parse_known_args(arguments, namespace)
    if unknown:
        complain(f"unknown argument {unknown[0]}; {_hint(parser, unknown[0])}", parser.prog)
    return found


def _hint(parser: argparse.ArgumentParser, unknown: str) -> str:
    """What to write in place of an argument that there is not."""
    name = unknown.partition("=")[0]
    if not name.startswith("-"):
        return f"a model is given by its flag: --policy {name} or --prm {name}"
    flags = [flag for action in parser._actions for flag in action.option_strings]  # pyright: ignore[reportPrivateUsage]
    close = [_OTHERS[name]] if name in _OTHERS else get_close_matches(name, flags, n=1)
    return f"did you mean {close[0]}?" if close else "see --help"


def _told(error: ValidationError, config: Path | None) -> str:
    """The first thing wrong, with all the names it may have been set by."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        close = get_close_matches(name, Settings.model_fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see --help for all there are"
        return f"{config or 'settings'}: unknown setting {name!r}; {hint}"
    flag = f"--{name.replace('_', '-')}"
    # A key has no place on a screen or in a log, usable or not.
    given = "***" if name.endswith("api_key") else first["input"]
    places = f"flag {flag}, variable COS_{name.upper()}" + (f" or {name} in {config}" if config else "")
    return f"{flag} {given}: {message} ({places})"
