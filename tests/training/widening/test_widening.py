"""A widened checkpoint computes what the small one does."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2Config, Qwen2ForCausalLM

from cos.checkpoints import embedded, heldout
from cos.search.errors import InputError
from cos.training.config.conversion import ShapeKeys, WidenConfig
from cos.training.stages.widen import run_widen
from cos.training.widening.checkpoint import INDEX, widening_of
from cos.training.widening.shape import SHAPES, Shape, check_shape
from tests.training.training_support import context

TINY = Shape(hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2)
TWICE = Shape(
    hidden_size=512, intermediate_size=1536, num_hidden_layers=9, num_attention_heads=4, num_key_value_heads=2
)
MORE_HEADS = Shape(
    hidden_size=1024, intermediate_size=800, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4
)
LARGER_GROUPS = Shape(
    hidden_size=384, intermediate_size=768, num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=2
)


def widened(source: Path, target: Path, shape: Shape, dtype: torch.dtype = torch.float32) -> Path:
    widening_of(source, shape).write(target, dtype)
    return target


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    """Of a question with its picture, in float32."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    problem = heldout()[0]
    processor = AutoProcessor.from_pretrained(folder)
    image = Image.open(io.BytesIO(problem.image_png)).convert("RGB")
    inputs = processor(text=f"<IMG_CONTEXT>\n{problem.question}", images=image, return_tensors="pt")
    return model(**inputs).logits


@pytest.mark.parametrize("role", ["policy", "prm"])
@pytest.mark.parametrize("shape", [TWICE, MORE_HEADS, LARGER_GROUPS], ids=["twice", "more heads", "larger groups"])
def test_the_embedded_models_compute_the_same_when_they_are_larger(role: str, shape: Shape, tmp_path: Path) -> None:
    source = embedded(role)
    shape = replace(shape, num_hidden_layers=shape.num_hidden_layers + 3)
    wide = widened(source, tmp_path / "wide", shape)
    gap = (logits(source) - logits(wide)).abs().max()
    assert gap < 1e-4
    told = json.loads((wide / "config.json").read_text())["text_config"]
    assert {name: told[name] for name in asdict(shape)} == asdict(shape)
    assert len(told["layer_types"]) == shape.num_hidden_layers


@pytest.mark.parametrize("tied", [True, False])
def test_a_text_model_alone_can_be_widened(tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    narrow = Qwen2ForCausalLM(config).eval()
    for weights in narrow.parameters():
        torch.nn.init.normal_(weights, std=0.5)  # biases and norms, too, are those of a trained model
    narrow.save_pretrained(tmp_path / "narrow")
    shape = Shape(
        hidden_size=96, intermediate_size=50, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=3
    )
    wide = Qwen2ForCausalLM.from_pretrained(widened(tmp_path / "narrow", tmp_path / "wide", shape))
    asked = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(narrow(asked).logits, wide(asked).logits, atol=1e-4)


def test_what_nothing_reads_is_noise(tmp_path: Path) -> None:
    weights = load_file(widened(embedded("policy"), tmp_path / "wide", TWICE) / "model.safetensors")
    layer = "language_model.model.layers.8."
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        assert (weights[f"{layer}{part}.weight"] != 0).float().mean() > 0.99
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        assert not weights[f"{layer}{part}.weight"].any()


def test_large_checkpoints_are_written_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cos.training.widening.checkpoint.SHARD_BYTES", 20 << 20)
    wide = widened(embedded("policy"), tmp_path / "wide", TWICE)
    index = json.loads((wide / INDEX).read_text())
    files = sorted(path.name for path in wide.glob("*.safetensors"))
    assert len(files) > 3
    assert sorted(set(index["weight_map"].values())) == files
    assert all(name in load_file(wide / file) for name, file in index["weight_map"].items())
    assert torch.equal(logits(wide), logits(widened(wide, tmp_path / "again", TWICE)))


def test_the_stage_writes_a_checkpoint_and_tells_its_size(tmp_path: Path) -> None:
    where = context(tmp_path, "wide")
    run_widen(WidenConfig(prm="cos-tiny", shape=ShapeKeys(**asdict(replace(TWICE, num_hidden_layers=9)))), where)
    written = load_file(where.folder / "model" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.bfloat16}
    outcome = json.loads((where.folder / "done.json").read_text())["outcome"]
    assert outcome["parameters"] == sum(value.numel() for value in written.values())
    assert outcome["hidden_size"] == 512
    assert (where.folder / "model" / "tokenizer.json").read_bytes() == (embedded("prm") / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("name", SHAPES)
def test_the_embedded_models_can_grow_to_every_shape_that_has_a_name(name: str) -> None:
    billions = {"7b": 6.5, "14b": 13.1, "38b": 31.2}
    found = widening_of(embedded("policy"), SHAPES[name]).parameters / 1e9
    assert found == pytest.approx(billions[name], rel=0.02), "the model's own, without its vocabulary and its tower"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"hidden_size": 128}, "hidden_size 128 is less than the 256 of the checkpoint"),
        ({"num_hidden_layers": 4}, "num_hidden_layers 4 is less than the 5"),
        ({"hidden_size": 510}, "hidden_size 510 is no multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
        ({"hidden_size": 384}, "heads of 96 channels .* give a multiple of 64"),
        ({"num_key_value_heads": 4}, "give fewer num_key_value_heads"),
    ],
)
def test_sizes_that_cannot_be_grown_to_are_told(changed: dict[str, int], told: str) -> None:
    with pytest.raises(InputError, match=told):
        check_shape(TINY, replace(TWICE, **changed), {})


def test_scaled_rotary_embeddings_keep_their_head_size() -> None:
    text: dict[str, Any] = {"rope_parameters": {"rope_type": "yarn"}}
    check_shape(TINY, replace(TINY, num_hidden_layers=6), text)
    with pytest.raises(InputError, match="rotary embeddings of type 'yarn' change with the head size"):
        check_shape(TINY, TWICE, text)


def copied(tmp_path: Path, **config: Any) -> Path:
    """The embedded policy with another config."""
    folder = tmp_path / "model"
    folder.mkdir(parents=True)
    kept = json.loads((embedded("policy") / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**kept, **config}))
    save_file(load_file(embedded("policy") / "model.safetensors"), folder / "model.safetensors")
    return folder


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model_type is 'llava' with a text model 'qwen2'; only"):
        widening_of(copied(tmp_path, model_type="llava"), TWICE)


@pytest.mark.parametrize(
    "name", ["language_model.model.layers.0.self_attn.q_norm.weight", "language_model.model.layers.3.odd", "score"]
)
def test_tensors_that_belong_nowhere_are_refused(name: str, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: torch.zeros(4)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=f"the tensor {name} is none of"):
        widening_of(folder, TWICE)


def changed_weights(folder: Path, **changed: torch.Tensor | None) -> None:
    """Other tensors in a checkpoint's file; None takes one out."""
    weights = {**load_file(folder / "model.safetensors"), **changed}
    kept = {name: value for name, value in weights.items() if value is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def test_sizes_that_are_not_those_of_the_config_are_told(tmp_path: Path) -> None:
    config: Any = Qwen2Config(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    config.head_dim, config.num_key_value_heads = 16, 2
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"k_proj.bias has the sizes \(32,\), and by its config.json \(16,\); only heads"
    ):
        widening_of(tmp_path, TWICE)
    told = json.loads((tmp_path / "config.json").read_text())
    del told["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="has no num_hidden_layers; write it there"):
        widening_of(tmp_path, TWICE)


def test_checkpoints_that_are_not_whole_are_told(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    name = "language_model.model.layers.1.self_attn.q_proj.bias"
    changed_weights(folder, **{name: None})
    with pytest.raises(InputError, match=f"the tensor {name} is missing"):
        widening_of(folder, TWICE)
    (folder / INDEX).write_text(json.dumps({"weight_map": {name: "model-00001-of-00002.safetensors"}}))
    with pytest.raises(InputError, match=r"both model\.safetensors and model\.safetensors\.index\.json"):
        widening_of(folder, TWICE)
    (folder / "model.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    with pytest.raises(InputError, match=r"model-00001-of-00002\.safetensors, which .* names, is missing"):
        widening_of(folder, TWICE)


def test_other_files_beside_the_weights_are_none(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({name: -value for name, value in weights.items()}, folder / "model_old.safetensors", {"format": "pt"})
    name = "language_model.model.embed_tokens.weight"
    wide = load_file(widened(folder, tmp_path / "wide", TWICE) / "model.safetensors")
    assert torch.equal(wide[name][:, :256], weights[name].float())


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        widening_of(folder, TWICE)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: no JSON"):
        widening_of(folder, TWICE)


def test_quantised_weights_and_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names a quantisation"):
        widening_of(copied(tmp_path / "a", quantization_config={"quant_method": "fp8"}), TWICE)
    folder = copied(tmp_path / "b")
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    changed_weights(folder, **{name: torch.zeros(768, 256, dtype=torch.int8)})
    with pytest.raises(InputError, match=f"the tensor {name} has the number format I8; only weights"):
        widening_of(folder, TWICE)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="merge the adapter"):
        widening_of(folder, TWICE)


def test_tensors_may_have_the_names_that_they_have_while_the_model_is_loaded(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    weights = load_file(folder / "model.safetensors")
    loaded = {f"model.{name}".replace("language_model.model.", "language_model."): weights[name] for name in weights}
    save_file(loaded, folder / "model.safetensors", {"format": "pt"})
    wide = widened(folder, tmp_path / "wide", TWICE)
    ours = widened(embedded("policy"), tmp_path / "ours", TWICE)
    assert (wide / "model.safetensors").read_bytes() == (ours / "model.safetensors").read_bytes()


def test_folders_that_cannot_be_read_or_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json there"):
        widening_of(tmp_path, TWICE)
    folder = copied(tmp_path)
    with pytest.raises(InputError, match="is not empty"):
        widening_of(folder, TWICE).write(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors there"):
        widening_of(folder, TWICE)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"policy": "a", "prm": "b", "to": "7b"}, "give either policy or prm"),
        ({"to": "7b"}, "give either policy or prm"),
        ({"policy": "a"}, "give either to or shape"),
        ({"policy": "a", "to": "7b", "shape": asdict(TWICE)}, "give either to or shape"),
        ({"policy": "a", "to": "8b"}, "'7b', '14b' or '38b'"),
    ],
)
def test_keys_that_contradict_each_other_are_told(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        WidenConfig.model_validate(keys)
