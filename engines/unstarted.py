"""A model whose engine has not been started: what its files alone tell, in the ports of one that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cos.engines.adapter import Adapter
from cos.engines.architectures import register_configs
from cos.engines.chat import ChatPrompt
from cos.engines.checkpoint import CONTEXTS, TEXTS, check_model, config_of, files_of, templater
from cos.engines.heads import HEADED, WIDTHS, find_head, head_arguments
from cos.engines.known_model import KnownModel
from cos.engines.settings import EngineSettings
from cos.engines.vocabulary import HfVocabulary
from cos.engines.weights import weights_bytes
from cos.search.errors import EngineError, InputError
from cos.search.ports import Ability, Draw, Drawn, HeadRead, LabelRead
from cos.search.prompt import Prompt
from cos.search.types import Prefix

SOME_TEXT = "How much is it?"
EYES = ("vision_config", "visual", "vision_tower", "mm_vision_tower", "vit_config")


class Unstarted(KnownModel):
    """Satisfies `cos.search.ports.Policy` and `cos.prm.ports.Reader` but that nothing can be asked of it."""

    def __init__(
        self,
        settings: EngineSettings,
        config: Mapping[str, Any],
        files: frozenset[str],
        vocabulary: HfVocabulary,
        prompt: ChatPrompt,
        stored_bytes: int | None,
        *,
        has_template: bool,
    ) -> None:
        """``stored_bytes``: see `stored_bytes`. Use `open_unstarted`."""
        super().__init__(settings, vocabulary, prompt)
        self.config, self.files = config, files
        self.stored_bytes = stored_bytes
        """How large its weights are on disk; None for those that are not on this machine yet."""
        self.has_template = has_template
        """Whether it has a chat template."""

    def with_adapter(self, adapter: Adapter) -> Unstarted:
        """The PRM that an adapter over these weights is. Of its own it has the weights of the adapter alone."""
        return Unstarted(
            replace(self.settings, role="prm", model=adapter.name, adapter=None),
            self.config,
            adapter.files,
            self.vocabulary,
            self._prompt,
            None,
            has_template=self.has_template,
        )

    @property
    def abilities(self) -> frozenset[Ability]:
        """By its architecture's name, as vLLM tells."""
        is_headed = any(name.endswith(HEADED) for name in self._architectures)
        return frozenset(("head",)) if is_headed else frozenset(("labels", "text"))

    @property
    def _architectures(self) -> list[str]:
        """As the config names them, or as vLLM is told of a checkpoint with a value head beside its weights."""
        told = head_arguments(self.settings).get("hf_overrides", self.config)
        return [str(name) for name in told.get("architectures") or ()]

    @property
    def head_width(self) -> int | None:
        """See `cos.prm.ports.HasHead`; None as well where its weights are not on this machine."""
        if "head" not in self.abilities:
            return None
        head = find_head(Path(self.model).expanduser())
        known = next((WIDTHS[name] for name in self._architectures if name in WIDTHS), None)
        return known if head is None else head.width

    @property
    def most_pictures(self) -> int:
        """See `cos.search.ports.CountsPictures`."""
        return self.settings.max_images if self.sees_pictures else 0

    @property
    def known_context_tokens(self) -> int | None:
        """Longest prompt + continuation; None where the config does not say."""
        if self.settings.max_model_len is not None:
            return self.settings.max_model_len
        places = [*(self.config.get(name) for name in TEXTS), self.config]
        found = [place.get(name) for place in places if isinstance(place, Mapping) for name in CONTEXTS]
        return next((tokens for tokens in found if isinstance(tokens, int)), None)

    @property
    def context_tokens(self) -> int:
        """As `known_context_tokens`; a very long one where the config does not say."""
        return self.known_context_tokens or 2**31

    @property
    def sees_pictures(self) -> bool:
        return any(self.config.get(name) for name in EYES)

    async def open(self, prompt: Prompt) -> NotStarted:
        """Renders a prompt, without what its pictures take. Errors: InputError where it cannot be rendered or does not
        fit the context."""
        tokens = len(self._prompt.render(prompt))
        if tokens + 1 > self.context_tokens:
            role = self.settings.role
            raise InputError(
                f"--{role} {self.model}: a short question takes {tokens} tokens, and its context has "
                f"{self.context_tokens}; raise --{role}-max-model-len, or give a checkpoint with a longer context",
                role,
            )
        return NotStarted(tokens)


class NotStarted:
    """A prompt that no engine has."""

    tokens_aborted = 0

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens

    async def draw(self, prefix: Prefix, draw: Draw) -> Drawn:
        raise EngineError("the engine has not been started")

    async def read_labels(self, prefix: Prefix, labels: tuple[int, ...], priority: int) -> LabelRead:
        raise EngineError("the engine has not been started")

    async def read_head(self, prefix: Prefix, priority: int) -> HeadRead:
        raise EngineError("the engine has not been started")


def open_unstarted(settings: EngineSettings) -> Unstarted:
    """Reads config, file names, tokenizer, chat template and the headers of the weights; no weights.

    It blocks: call it in a thread, and `cos.engines.environment.set_environment` before it. Errors: InputError naming
    what is missing or cannot be read.
    """
    from transformers import AutoTokenizer

    role, model = settings.role, settings.model
    check_model(settings)
    try:
        config, files = config_of(model, trust_remote_code=settings.trust_remote_code), files_of(model)
        _check_config(config)
    except (ValueError, OSError, TypeError) as error:
        raise InputError(
            f"--{role} {model}: its config.json cannot be read ({_first_line(error)}); give a checkpoint folder or the "
            "name of one on the hub, and log in there if it asks for it",
            role,
        ) from error
    folder = Path(model).expanduser()
    stored = weights_bytes(folder, role) if folder.is_dir() else None
    head_arguments(settings)
    # Else transformers warns of a configuration that it has no class for.
    register_configs()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else model, trust_remote_code=settings.trust_remote_code
        )
        vocabulary = HfVocabulary(tokenizer)
        if not vocabulary.decode(vocabulary.encode(SOME_TEXT)).strip():
            # Of a folder without one, transformers makes a tokenizer that knows no text.
            raise ValueError("it has no tokens for plain text")
        rendering = templater(settings, tokenizer)
    except Exception as error:
        # Tokenizers come with code of many kinds, and fail in as many ways.
        raise InputError(
            f"--{role} {model}: its tokenizer cannot be loaded ({_first_line(error)}); give a folder with "
            "tokenizer.json and tokenizer_config.json, or --trust-remote-code for one that comes with code of its own",
            role,
        ) from error
    return Unstarted(
        settings,
        config,
        files,
        vocabulary,
        ChatPrompt(vocabulary, rendering, role),
        stored,
        has_template=bool(getattr(rendering, "chat_template", None)),
    )


def _check_config(config: Any) -> None:
    """Errors: ValueError for a config.json that says what no checkpoint says."""
    if not isinstance(config, Mapping):
        raise ValueError(f"it holds {str(config)[:40]!r} in place of an object")
    architectures: Any = config.get("architectures")
    is_list = isinstance(architectures, list) and all(isinstance(name, str) for name in architectures)
    if architectures is not None and not is_list:
        raise ValueError(f"its architectures are {str(architectures)[:40]!r} in place of a list of names")


def _first_line(error: Exception) -> str:
    """What an error says, in a part of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".").replace(";", ",")
