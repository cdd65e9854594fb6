"""A checkpoint whose tokenizer comes with code of its own, as those on InternLM2 do: read by its files alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from cos.engines.internlm2_config import InternLM2Config
from cos.engines.settings import EngineSettings
from cos.engines.unstarted import open_unstarted
from cos.prm import menu
from cos.prm.ports import Judged
from cos.search.errors import InputError
from cos.search.grammars.paragraph import ParagraphGrammar
from tests.tiny import internvl_chat


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VisualPRM v1.0's layout."""
    made = tmp_path_factory.mktemp("visualprm")
    internvl_chat.write(made, architecture="InternVLRewardModel", on_internlm2=True)
    return made


def test_it_is_not_run_unless_its_user_says_so_and_the_error_names_the_flag(folder: Path) -> None:
    with pytest.raises(InputError, match=r"its tokenizer cannot be loaded .* or --trust-remote-code for one"):
        open_unstarted(EngineSettings(role="prm", model=str(folder)))


def test_with_the_flag_it_is_recognised_and_renders_its_prompt(folder: Path) -> None:
    prm = open_unstarted(EngineSettings(role="prm", model=str(folder), trust_remote_code=True))
    assert prm.sees_pictures
    judged = Judged(vocabulary=prm.vocabulary, grammar=ParagraphGrammar(prm.vocabulary))
    assert menu.choose("auto", prm, judged).name == "visualprm"
    ends, begins = (prm.vocabulary.decode(ids) for ids in (prm.turn_marks().to_assistant, prm.turn_marks().to_user))
    assert (ends, begins) == ("<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\n")


def test_the_context_of_internlm2_ends_where_its_positions_do(folder: Path) -> None:
    described: dict[str, Any] = json.loads((folder / "config.json").read_text())["llm_config"]
    assert described["rope_scaling"] == {"factor": 2.0, "type": "dynamic"}
    described.pop("model_type")
    config = InternLM2Config(**described)
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": described["rope_theta"]}
    described["rope_scaling"] = {"factor": 2.0, "type": "linear"}
    linear = InternLM2Config(**described)
    assert isinstance(linear.rope_parameters, dict)
    assert linear.rope_parameters["rope_type"] == "linear"
