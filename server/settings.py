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
from cos.engines.elsewhere import Elsewhere, vllm_url
from cos.engines.pictures import SERVED, PictureLimits
from cos.engines.settings import SCRIPTED, EngineSettings, Role, runtime_of
from cos.prm import menu as prm_formats
from cos.prm.choice import PrmChoice, choose_prm
from cos.search import grammars
from cos.search.errors import InputError
from cos.search.strategies import resolve
from cos.server.engine_options import EachEngineOptions, EngineOptions, check_elsewhere, flag, options_of
from cos.server.origins import usable_host, usable_origin

PAIRED = (EMBEDDED, SCRIPTED)
"""Policies that have a PRM of their own."""


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
    """The process reward model (PRM) that scores the policy's steps: a checkpoint folder or a hub name. With "judge"
    the policy is asked whether each of its own steps is right. With "none" there are no scores, and answers are ranked
    by the policy's likelihood. Only cos-tiny and scripted can do without this flag: each has a PRM of its own."""
    prm_lora: str | None = flag(None, "models", "ADAPTER")
    """The process reward model as a LoRA adapter over the policy's weights, in place of --prm: a folder that PEFT
    saved, or a hub name. One engine then runs both, the policy's requests without the adapter and the PRM's with it.
    With --prm-url it is the name of an adapter that is served there."""
    policy_url: str | None = flag(None, "models", "URL")
    """A vLLM server elsewhere that runs the policy, as http://host:8000. Start it by "vllm serve MODEL
    --enable-scale-out --scheduling-policy priority --enable-prompt-tokens-details". Name the same model by --policy, as
    a checkpoint folder or a hub name: this server loads its tokenizer and chat template, and no weights."""
    prm_url: str | None = flag(None, "models", "URL")
    """The same for the PRM."""
    policy_api_key: SecretStr | None = flag(None, "models", "KEY")
    """The key that the server at --policy-url asks for."""
    prm_api_key: SecretStr | None = flag(None, "models", "KEY")
    """The key that the server at --prm-url asks for."""
    remote_timeout_s: float = flag(300.0, "models", "SECONDS", gt=0, allow_inf_nan=False)
    """Longest wait for the reply to one request to --policy-url or --prm-url."""
    remote_retries: int = flag(2, "models", "N", ge=0)
    """How often a request to --policy-url or --prm-url is sent again, where the connection failed or the reply was 429
    or 503."""
    policy_suffix: str = flag("", "models", "TEXT")
    """Text that the policy reads after every question, on a line of its own. It is not added where a strategy asks the
    policy something by itself."""
    prm_suffix: str = flag("", "models", "TEXT")
    """The same for the PRM."""
    served_model_name: str | None = flag(None, "models", "NAME", min_length=1)
    """The name that clients must give as "model". Unless given, it is the last part of --policy: Qwen2.5-VL-7B-Instruct
    for Qwen/Qwen2.5-VL-7B-Instruct."""
    grammar: str = flag("auto", "models", "NAME")
    """How the policy writes its steps: the name of a step grammar (cos, paragraph, marker). "auto" chooses by the
    policy's tokenizer."""
    prm_format: str = flag("auto", "models", "NAME")
    """How the PRM is asked and its answer read: the name of a PRM format (docs/models.md lists them), or a YAML file of
    your own. "auto" chooses by the PRM's files, and refuses where they leave it open."""
    prm_verdict_tokens: int | None = flag(None, "models", "TOKENS", ge=1)
    """Most tokens that a PRM may write about one step, in formats whose PRM writes (thinkprm, genprm, judge_json).
    Unless given, it is the format's own limit. A step whose verdict is cut off is unscored."""

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
    """Largest picture; of a request with several, all of them together."""
    max_body_mib: float = flag(SERVED.file_mib, "limits", "MIB", gt=0, allow_inf_nan=False)
    """Largest request body."""
    max_images: int = flag(8, "limits", "N", ge=1)
    """Most pictures of a question and the conversation before it."""
    image_required: bool | None = flag(None, "limits")
    """Refuse questions without an image. Unless given, the server does so only where the policy needs one, as cos-tiny
    does."""

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

    @field_validator("policy_url", "prm_url")
    @classmethod
    def _usable_server(cls, value: str | None) -> str | None:
        try:
            return None if value is None else vllm_url(value)
        except InputError as error:
            raise ValueError(str(error)) from error

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
        return value if value == grammars.AUTO else _known(grammars.find, value)

    @field_validator("prm_format")
    @classmethod
    def _prm_format_exists(cls, value: str) -> str:
        return value if value == prm_formats.AUTO else _known(prm_formats.find, value)

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        try:
            chosen = self.prm_choice
        except InputError as error:
            raise ValueError(str(error)) from error
        if self.prm_lora is not None:
            self._check_adapter(self.prm_lora)
        names = EngineOptions.model_fields if chosen.is_adapter else ("suffix", *EngineOptions.model_fields)
        own = next((name.replace("_", "-") for name in names if getattr(self, f"prm_{name}")), None)
        if (chosen.is_policy or chosen.is_adapter) and own is not None:
            given = "--prm-lora" if chosen.is_adapter else f"--prm {chosen.name}"
            raise ValueError(
                f"--prm-{own} is for a PRM with an engine of its own; with {given} the policy's engine judges: give "
                f"--policy-{own}"
            )
        for role in ("policy", "prm"):
            try:
                options_of(role, self)
                if (url := self.elsewhere.url(role)) is not None:
                    check_elsewhere(role, url, self)
            except InputError as error:
                raise ValueError(str(error)) from error
        try:
            self.elsewhere.check(self.policy, self.prm_lora or chosen.model)
        except InputError as error:
            raise ValueError(str(error)) from error
        if self.n is not None and self.n > self.max_n:
            raise ValueError(f"--n {self.n} is above --max-n {self.max_n}; lower one or raise the other")
        return self

    def _check_adapter(self, adapter: str) -> None:
        """Errors: ValueError where the policy's engine is none that can run it."""
        if self.policy == SCRIPTED:
            raise ValueError(f"--prm-lora {adapter} needs a --policy with weights; {SCRIPTED} has none")
        if self.policy_url is not None and self.prm_url is None:
            raise ValueError(
                f"--prm-lora {adapter} runs where the policy does, and --policy-url {self.policy_url} is elsewhere; "
                f"have it served there by --enable-lora --lora-modules NAME={adapter}, and give "
                f"--prm-url {self.policy_url} --prm-lora NAME"
            )

    @property
    def prm_choice(self) -> PrmChoice:
        """Who judges the policy's steps. Errors: InputError."""
        return choose_prm(self.policy, self.prm, self.prm_format, paired=PAIRED, lora=self.prm_lora)

    @property
    def serves_shipped_pair(self) -> bool:
        """Whether the models are those that cos-serve brings along, and everything about them is as it comes."""
        names = ("prm", "prm_lora", "policy_url", "prm_url", "policy_suffix", "prm_suffix", "grammar", "prm_format")
        asked = (*names, "image_required", *EachEngineOptions.model_fields)
        fields = type(self).model_fields
        return self.policy == EMBEDDED and all(getattr(self, name) == fields[name].default for name in asked)

    @property
    def elsewhere(self) -> Elsewhere:
        """Which models run on a vLLM server elsewhere."""
        keys = {
            f"{role}_api_key": None if key is None else key.get_secret_value()
            for role, key in (("policy", self.policy_api_key), ("prm", self.prm_api_key))
        }
        return Elsewhere(policy_url=self.policy_url, prm_url=self.prm_url, **keys)

    @property
    def prm_name(self) -> str | None:
        """The PRM's name as replies tell it, a model, an adapter or "judge"; None is a server without one."""
        return self.prm_choice.shown

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
        """How the engine of a role is to be started; None for a PRM that has none of its own."""
        is_served = self.prm_lora is not None and self.prm_url is not None
        # An adapter that is served elsewhere has the tokenizer and the chat template of the policy.
        prm = self.policy if is_served else self.prm_choice.model
        name = self.policy if role == "policy" else prm
        if name is None:
            return None
        elsewhere = self.elsewhere
        return EngineSettings(
            role=role,
            model=resolve_model("policy" if is_served else role, name),
            runtime=runtime_of(name, elsewhere.url(role)),
            grammar=self.grammar,
            max_images=self.max_images,
            adapter=self.prm_lora if is_served == (role == "prm") else None,
            url=elsewhere.url(role),
            api_key=elsewhere.api_key(role),
            timeout_s=self.remote_timeout_s,
            retries=self.remote_retries,
            **options_of(role, self),
        )
