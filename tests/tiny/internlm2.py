"""The language model and the tokenizer of InternLM2 (internlm2_5-*, InternVL2_5-8B, VisualPRM-8B) as published: a
sentencepiece model that a Python file beside it loads, and a model of Llama's kind with other names of its weights.

Of such a checkpoint the Python file is code to be run, so it is loaded with ``trust_remote_code``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, cast

import torch

from tests.tiny.parts import SENTENCES

CHAT = ("<|im_start|>", "<|im_end|>", "<|action_start|>", "<|action_end|>", "<|interpreter|>", "<|plugin|>")
"""In place of the last pieces of the sentencepiece model."""
PLACES = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""Behind the pieces of the sentencepiece model."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CODE = '''"""Loads the sentencepiece model beside it."""

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer


class InternLM2Tokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "./tokenizer.model"}
    model_input_names = ["input_ids", "attention_mask"]
    _auto_class = "AutoTokenizer"

    def __init__(self, vocab_file, add_bos_token=True, **names):
        self.vocab_file = vocab_file
        self.add_bos_token = add_bos_token
        self.pieces = SentencePieceProcessor(vocab_file)
        super().__init__(**names)

    @property
    def vocab_size(self):
        return self.pieces.get_piece_size()

    def get_vocab(self):
        return {**{self.convert_ids_to_tokens(i): i for i in range(self.vocab_size)}, **self.added_tokens_encoder}

    def _tokenize(self, text):
        return self.pieces.encode(text, out_type=str)

    def _convert_token_to_id(self, token):
        return self.pieces.piece_to_id(token)

    def _convert_id_to_token(self, index):
        return self.pieces.id_to_piece(index)

    def convert_tokens_to_string(self, tokens):
        said, ordinary, follows_special = "", [], False
        for token in tokens:
            if token in self.all_special_tokens:
                said += ("" if follows_special else " ") + self.pieces.decode(ordinary) + token
                ordinary, follows_special = [], True
            else:
                ordinary.append(token)
                follows_special = False
        return said + self.pieces.decode(ordinary)

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [self.bos_token_id] * self.add_bos_token + token_ids_0 + (token_ids_1 or [])
'''
"""As the published file does, a space stands before a control token that is shown behind text."""


def write_tokenizer(folder: Path, *, added: tuple[str, ...] = ()) -> Any:
    """Writes a tokenizer with ``added`` tokens; the same as transformers loads it."""
    from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2
    from transformers import AutoTokenizer

    trained = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([*SENTENCES * 2, "user system assistant + - Yes No", "你是书生·万象", "1 2 3"]),
        model_writer=trained,
        model_type="bpe",
        vocab_size=480,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=["\n", "\n\n"],
        minloglevel=2,
    )
    pieces = cast("Any", sentencepiece_model_pb2).ModelProto()
    pieces.ParseFromString(trained.getvalue())
    first = len(pieces.pieces)
    for number, _ in enumerate(CHAT):
        pieces.pieces.add(piece=f"[UNUSED_TOKEN_{number}]", score=-1e6)
    (folder / "tokenizer.model").write_bytes(pieces.SerializeToString())
    (folder / "tokenization_internlm2.py").write_text(CODE, "utf-8")
    control = {0: "<unk>", 1: "<s>", 2: "</s>", **dict(enumerate((*CHAT, *PLACES, *added), first))}
    described = {
        "added_tokens_decoder": {
            str(its_id): {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "special": True}
            for its_id, token in control.items()
        },
        "additional_special_tokens": [*CHAT, *PLACES, *added],
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": 8192,
        "pad_token": "</s>",
        "tokenizer_class": "InternLM2Tokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described, ensure_ascii=False), "utf-8")
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


def described(language: dict[str, Any]) -> dict[str, Any]:
    """A language model's config in the published keys. ``language``: its sizes, by Llama's keys."""
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "attn_implementation": "flash_attention_2",
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
        },
        "bias": False,
        "hidden_act": "silu",
        "model_type": "internlm2",
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
        **language,
    }


RENAMED = (
    ("model.embed_tokens.", "model.tok_embeddings."),
    ("lm_head.", "output."),
    (".self_attn.o_proj.", ".attention.wo."),
    (".mlp.gate_proj.", ".feed_forward.w1."),
    (".mlp.up_proj.", ".feed_forward.w3."),
    (".mlp.down_proj.", ".feed_forward.w2."),
    (".input_layernorm.", ".attention_norm."),
    (".post_attention_layernorm.", ".ffn_norm."),
)


def published_weights(weights: dict[str, torch.Tensor], heads: int, head_groups: int) -> dict[str, torch.Tensor]:
    """Llama's weights by InternLM2's names. Of each group of heads, queries, keys and values stand side by side."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        renamed, value = name, weight
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".self_attn.q_proj." in name:
            renamed = name.replace(".self_attn.q_proj.", ".attention.wqkv.")
            query, key, own = (weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv")
            size = len(query) // heads
            parts = [part.view(head_groups, -1, size, part.shape[-1]) for part in (query, key, own)]
            value = torch.cat(parts, dim=1).reshape(-1, query.shape[-1])
        for own_name, published in RENAMED:
            renamed = renamed.replace(own_name, published)
        found[renamed] = value.contiguous().clone()
    return found
