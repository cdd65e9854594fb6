"""Tiny checkpoint folders, of which files are all that matters: no engine could run them."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.engines.small_tokenizer import CONTROLS, tokenizer

TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n"
    "{% if turn['content'] is string %}{{ turn['content'] }}{% else %}{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SEEING: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "max_position_embeddings": 16_384,
    "vision_config": {"hidden_size": 8},
    "dtype": "float32",
}
BLIND: dict[str, Any] = {name: value for name, value in SEEING.items() if name != "vision_config"}


def safetensors(data_bytes: int, name: str = "weight", width: int = 1) -> bytes:
    """A file of one tensor of that size, of ``width`` rows."""
    tensor = {"dtype": "F32", "shape": [width, data_bytes // 4 // width], "data_offsets": [0, data_bytes]}
    header = json.dumps({name: tensor}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(data_bytes)


def checkpoint(
    folder: Path,
    *,
    controls: Sequence[str] = CONTROLS,
    template: str | None = TEMPLATE,
    config: dict[str, Any] = SEEING,
    weights: bytes | None = safetensors(4096),
) -> Path:
    """A folder with the files of a checkpoint, but for what is None."""
    own = tokenizer(tuple(controls))
    own.chat_template = template
    own.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder
