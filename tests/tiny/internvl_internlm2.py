"""InternVLChatModel on InternLM2 (OpenGVLab/InternVL2_5-8B, VisualPRM-8B, CoS's 8B models)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cos.search.grammars.cos import COS_TOKENS
from tests.tiny import internvl_chat


def write(folder: Path) -> Any:
    """Writes a checkpoint with the tokens of CoS; the same model as transformers runs it."""
    return internvl_chat.write(folder, on_internlm2=True, added=COS_TOKENS)
