"""All settings of a server. Each field is a flag (vLLM's spelling), a ``COS_`` variable and a YAML
key; a flag wins over a variable, that over YAML, that over the default."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cos.checkpoints import EMBEDDED
from cos.checkpoints import resolve as resolve_model
from cos.engines.pictures import SERVED, PictureLimits
from cos.engines.settings import SCRIPTED, EngineSettings, Role, runtime_of
from cos.prm import menu as prm_formats
from cos.search import grammars
from cos.search.errors import InputError
from cos.search.strategies import resolve
from cos.server.engine_options import EachEngineOptions, flag, options_of
from cos.server.origins import usable_host, usable_origin

NO_PRM = "none"


def _known(find: Callable[[str], object], name: str) -> str:
    """The name, if something usable has it. Errors: ValueError with the menu, or with what is wrong with it."""
    try:
        find(name)
    except InputError as error:
        raise ValueError(str(error)) from error
    return name


class Settings(EachEngineOptions, BaseSettings):
    """The server's settings."""

    model_config = SettingsConfigDict(env_prefix="COS_", frozen=True, extra="forbid", use_attribute_docstrings=True)

    policy: str = flag(EMBEDDED, "models", "MODEL")
    """The policy: a checkpoint folder, a hub name, "cos-tiny" (embedded), or "scripted" (no model at all)."""
    prm: str | None = flag(None, "models", "MODEL")
    """The process reward model that judges its steps: as --policy, or "none" to rank by the policy's likelihood.
    The embedded and the scripted policy have one of their own."""
    policy_suffix: str = flag("", "models", "TEXT")
    """Put behind every question for the policy, on a line of its own; not behind what a strategy asks it by itself."""
    prm_suffix: str = flag("", "models", "TEXT")
    """The same for the PRM."""
    served_model_name: str | None = flag(None, "models", "NAME", min_length=1)
    """The name clients know the server's model by; the last part of --policy unless given."""
    grammar: str = flag("auto", "models", "NAME")
    """How the policy writes its steps: a step grammar by name, or "auto"."""
    prm_format: str = flag("auto", "models", "NAME")
    """How the PRM is asked and its answer read: a PRM format by name, or "auto"."""

    engine_patience_s: float = flag(15.0, "engines", "SECONDS", gt=0, allow_inf_nan=False)
    """Longest time without any progress of an engine before /health says 503."""

    strategy: str = flag("auto", "search", "NAME")
    """Strategy of a request that names none."""
    n: int | None = flag(None, "search", "N", ge=1)
    """Candidates of a request that does not say, as far as its strategy takes so many; the strategy's own default
    unless given."""
    max_n: int = flag(64, "search", "N", ge=1)
    """Most candidates a request may ask for."""
    max_tokens_per_search: int = flag(65_536, "search", "TOKENS", ge=1)
    """Most tokens one search may generate."""
    timeout_s: float = flag(600.0, "search", "SECONDS", gt=0, allow_inf_nan=False)
    """Longest search, and longest wait in the queue."""

    max_concurrent_searches: int = flag(64, "limits", "N", ge=1)
    """Searches that run at once."""
    max_queued_searches: int = flag(256, "limits", "N", ge=0)
    """Searches that may wait; one more is refused with 429."""
    max_image_megapixels: float = flag(SERVED.megapixels, "limits", "MPX", gt=0, allow_inf_nan=False)
    """Largest picture."""
    max_body_mib: float = flag(SERVED.file_mib, "limits", "MIB", gt=0, allow_inf_nan=False)
    """Largest request body."""
    image_required: bool = flag(True, "limits")
    """Refuse questions without an image."""

    host: str = flag("127.0.0.1", "server")
    """Address to listen on; 0.0.0.0 opens the server to the network."""
    port: int = flag(8000, "server", ge=0, le=65_535)
    """Port to listen on; 0 picks a free one."""
    api_key: Annotated[tuple[SecretStr, ...], NoDecode] = flag((), "server", "KEY")
    """A key that clients must send as a bearer token; repeat it for several. Without keys everyone may ask."""
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = flag((), "server", "ORIGIN")
    """An origin whose pages may use this server from a browser, as https://app.example; repeat it for several, or *
    for any page. Pages of this machine (localhost, 127.0.0.1, [::1], any port) may without it; clients that are no
    browsers are not held up."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = flag((), "server", "NAME")
    """A name this server is asked under, as cos.example; repeat it for several, or * for any name. It answers to
    localhost, 127.0.0.1, [::1] and its --host, too. With --host 0.0.0.0, as in a container, it answers to every address
    and to every name without a dot; a name with dots must be given here."""
    shutdown_timeout_s: int = flag(30, "server", "SECONDS", ge=0)
    """How long running searches may go on after a stop signal."""
    log_level: Literal["debug", "info", "warning", "error"] = flag("info", "server")
    """Least important messages to log."""
    log_format: Literal["text", "json"] = flag("text", "server")
    """How messages are logged: lines of text, or one JSON object a line. With json, what a start tells is logged,
    too."""
    log_questions: bool = flag(False, "server")
    """Log every search's question with its request, and show it in spans. Unforeseen errors are then logged with their
    own message, which may quote more. Off, no log line and no span holds what was asked or answered."""
    otlp_endpoint: str | None = flag(None, "server", "URL")
    """An OpenTelemetry collector, as http://localhost:4318, that gets the spans of every search (OTLP over HTTP; needs
    the extra "otel"). The standard variable OTEL_EXPORTER_OTLP_ENDPOINT does the same, and all other OTEL_ variables
    hold. Nothing is sent unless given."""
    metrics: bool = flag(True, "server")
    """Count what happens and show it at /metrics."""
    trace_dir: Path | None = flag(None, "server", "DIR")
    """Store every finished search with its question, picture and scored tree in this folder, for training; nothing is
    stored unless given."""
    config: Path | None = flag(None, "server", "FILE.yaml")
    """A YAML file with any of these settings, spelt as the flags with _ for -."""

    @field_validator("api_key", "allowed_origins", "allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.startswith('["'):
            # A list as vLLM's flags take it.
            return json.loads(value)
        return [part for part in value.split(",") if part]

    @field_validator("allowed_origins")
    @classmethod
    def _usable_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(usable_origin(part) for part in value)

    @field_validator("allowed_hosts")
    @classmethod
    def _usable_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(usable_host(part) for part in value)

    @field_validator("otlp_endpoint")
    @classmethod
    def _usable_endpoint(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", value):
            raise ValueError("expected the address of a collector, as http://localhost:4318")
        return value

    @field_validator("strategy")
    @classmethod
    def _strategy_exists(cls, value: str) -> str:
        try:
            return resolve(value).name
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("grammar")
    @classmethod
    def _grammar_exists(cls, value: str) -> str:
        return _known(grammars.find, value)

    @field_validator("prm_format")
    @classmethod
    def _prm_format_exists(cls, value: str) -> str:
        return _known(prm_formats.find, value)

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if self.prm is None and self.policy not in (EMBEDDED, SCRIPTED):
            raise ValueError(
                f"--policy {self.policy} needs a --prm: a PRM must match its policy. Give the folder or hub name of "
                "the PRM trained for it, or --prm none to rank by the policy's likelihood"
            )
        if self.n is not None and self.n > self.max_n:
            raise ValueError(f"--n {self.n} is above --max-n {self.max_n}; lower one or raise the other")
        return self

    @property
    def prm_name(self) -> str | None:
        """The PRM's model name; None is a server without one."""
        name = self.policy if self.prm is None else self.prm
        return None if name == NO_PRM else name

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.served_model_name or self.policy.rstrip("/").rpartition("/")[2]

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mib * 2**20)

    @property
    def picture_limits(self) -> PictureLimits:
        """What pictures are taken."""
        return PictureLimits(self.max_image_megapixels, self.max_body_mib, raised_by="--max-image-megapixels")

    def engine_settings(self, role: Role) -> EngineSettings | None:
        """How the engine of a role is to be started; None for a PRM that is not wanted."""
        name = self.policy if role == "policy" else self.prm_name
        if name is None:
            return None
        return EngineSettings(
            role=role,
            model=resolve_model(role, name),
            runtime=runtime_of(name),
            grammar=self.grammar,
            **options_of(role, self),
        )
