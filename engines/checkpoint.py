"""What is asked of a checkpoint before an engine has it."""

import json
from pathlib import Path
from typing import Any

from cos.engines.chat import templater_of
from cos.engines.settings import EngineSettings
from cos.search.errors import InputError


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


def takes_system_text(model: str) -> bool:
    """Whether a policy can do with text that is not the question. A folder's config.json says no by
    ``"cos_system_text": false``, as of a policy that was trained on questions alone and writes nonsense otherwise."""
    config = Path(model).expanduser() / "config.json"
    if not config.is_file():
        return True
    return json.loads(config.read_text(encoding="utf-8")).get("cos_system_text") is not False
