"""Small Qwen2 PRMs with random weights, in the files of the published ones: a head of two over a hidden layer
(Qwen2.5-Math-PRM), a classifier of tokens (TRL, axolotl), a value head (Skywork-o1-Open-PRM), and a value head in a
file of its own (reward models of TRL and LLaMA-Factory)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model

from tests.engines.small_tokenizer import tokenizer

WIDTH = 64
BOS = "<|endoftext|>"
CONTROLS = (BOS, "<|im_start|>", "<|im_end|>", "<extra_0>")
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\n"
    + SYSTEM.replace("\\", "\\\\")
    + "<|im_end|>\n{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADS: Mapping[str, tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]] = {
    "qwen_math_prm": (
        "Qwen2ForProcessRewardModel",
        (
            ("score.0.weight", (WIDTH, WIDTH)),
            ("score.0.bias", (WIDTH,)),
            ("score.2.weight", (2, WIDTH)),
            ("score.2.bias", (2,)),
        ),
    ),
    "token_classification": ("Qwen2ForTokenClassification", (("score.weight", (2, WIDTH)), ("score.bias", (2,)))),
    "skywork_o1": ("Qwen2ForPrmModel", (("v_head.summary.weight", (1, WIDTH)), ("v_head.summary.bias", (1,)))),
    "pointwise": ("Qwen2ForCausalLM", (("v_head.summary.weight", (1, WIDTH)), ("v_head.summary.bias", (1,)))),
}
"""Of each format the architecture, and the head's tensors."""


def write(folder: Path, prm_format: str) -> Path:
    """A checkpoint in a format's layout."""
    words: Any = tokenizer(CONTROLS)
    words.pad_token, words.eos_token, words.chat_template = BOS, "<|im_end|>", TEMPLATE
    if prm_format == "skywork_o1":
        words.bos_token = BOS
    shape = Qwen2Config(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model: Any = Qwen2ForCausalLM(shape)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # else every text looks alike
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    architecture, tensors = HEADS[prm_format]
    weights = load_file(folder / "model.safetensors")
    head = {name: torch.randn(shape) * 0.1 for name, shape in tensors}
    if prm_format == "pointwise":
        save_file(head, folder / "value_head.safetensors", {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    else:
        save_file(weights | head, folder / "model.safetensors", {"format": "pt"})
    described = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**described, "architectures": [architecture]}), "utf-8")
    return folder


def hidden_states(folder: Path, token_ids: tuple[int, ...]) -> torch.Tensor:
    """Of every token, by transformers in one pass: (tokens, width)."""
    model: Any = Qwen2Model.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([token_ids])).last_hidden_state[0]


def head_values(folder: Path, prm_format: str, token_ids: tuple[int, ...]) -> torch.Tensor:
    """What the head says of every token, by its weights: (tokens, values)."""
    hidden = hidden_states(folder, token_ids)
    side = folder / "value_head.safetensors"
    weights = load_file(side if side.exists() else folder / "model.safetensors")
    layers = [name.removesuffix(".weight") for name, _ in HEADS[prm_format][1] if name.endswith(".weight")]
    for number, layer in enumerate(layers):
        hidden = torch.nn.functional.linear(hidden, weights[f"{layer}.weight"], weights[f"{layer}.bias"])
        if number < len(layers) - 1:
            hidden = hidden.relu()
    return hidden
