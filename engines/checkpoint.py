"""What is asked of a checkpoint before an engine has it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cos.engines.chat import templater_of
from cos.engines.settings import EngineSettings
from cos.search.errors import InputError

CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""What configs call the longest context."""
TEXTS = ("text_config", "llm_config", "language_config")
"""Where the config of a vision-language model has that of its language model."""


def check_model(settings: EngineSettings) -> None:
    """Errors: InputError for what looks like a folder but is none, or has no config.json."""
    looks_local = settings.model.startswith((".", "/", "~")) or settings.model.count("/") > 1
    folder = Path(settings.model).expanduser()
    if looks_local and not (folder / "config.json").is_file():
        what = "has no config.json" if folder.is_dir() else "does not exist"
        raise InputError(
            f"--{settings.role} {settings.model}: the folder {what}; give a checkpoint folder or a hub name",
            settings.role,
        )


def templater(settings: EngineSettings, tokenizer: Any) -> Any:
    """What renders the checkpoint's chat template; ``tokenizer`` where it has no processor."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(settings.model, trust_remote_code=settings.trust_remote_code)
    except (ValueError, OSError):
        return tokenizer
    return templater_of(processor)


def config_of(model: str, *, trust_remote_code: bool = False) -> Mapping[str, Any]:
    """What a checkpoint's config.json holds, as it is written. ``model``: a folder or a hub name.

    Errors: OSError where there is none.
    """
    from transformers import PreTrainedConfig

    return PreTrainedConfig.get_config_dict(_expanded(model), trust_remote_code=trust_remote_code)[0]


def files_of(model: str) -> frozenset[str]:
    """The names of a checkpoint's files that are on this machine. Errors: OSError where there are none."""
    return frozenset(path.name for path in folder_of(model).iterdir())


def folder_of(model: str) -> Path:
    """Where a checkpoint's files are on this machine, those of the hub in its cache. Errors: OSError where there are
    none."""
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(_expanded(model), "config.json"))).parent


def _expanded(model: str) -> str:
    folder = Path(model).expanduser()
    return str(folder) if folder.is_dir() else model


def takes_system_text(model: str) -> bool:
    """Whether a policy can do with text that is not the question. A folder's config.json says no by
    ``"cos_system_text": false``, as of a policy that was trained on questions alone and writes nonsense otherwise."""
    return _config(model).get("cos_system_text") is not False


def pictures_of_a_question(model: str) -> int | None:
    """How many pictures every question must have, as a folder's config.json says by ``"cos_pictures": 1`` of a policy
    that was trained on such questions alone; None for any number."""
    return _config(model).get("cos_pictures")


def _config(model: str) -> dict[str, Any]:
    config = Path(model).expanduser() / "config.json"
    return json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
