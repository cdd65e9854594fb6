"""The shipped configurations of accelerate are what accelerate takes them for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from accelerate.commands.launch import (
    _validate_launch_command,  # pyright: ignore[reportPrivateUsage]
    launch_command_parser,
)
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

SHIPPED = Path(__file__).parents[3] / "training" / "accelerate"


def launched(configuration: str) -> Mapping[str, str]:
    """The variables that accelerate's launcher sets for a shipped configuration, on the first of its machines."""
    given = ["--config_file", str(SHIPPED / f"{configuration}.yaml"), "--main_process_ip", "127.0.0.1"]
    parsed = launch_command_parser().parse_args([*given, "-m", "cos.clients.cli"])
    args, defaults, _ = cast("tuple[Any, Any, bool]", _validate_launch_command(parsed))
    if args.use_fsdp:
        made = prepare_multi_gpu_env(args)
    else:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        command, made = prepare_deepspeed_cmd_env(args)
        assert command is None, "torchrun starts it, not DeepSpeed's launcher by a file of hosts"
    return {name: value for name, value in made.items() if os.environ.get(name) != value}


@pytest.mark.parametrize("configuration", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_accelerate_takes_every_shipped_configuration_by_what_it_is_named_for(configuration: str) -> None:
    variables = launched(configuration)
    assert variables["ACCELERATE_MIXED_PRECISION"] == "bf16"
    if configuration == "fsdp":
        assert variables["ACCELERATE_USE_FSDP"] == "true"
        assert variables["FSDP_VERSION"] == "2"
        assert variables["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
        assert variables["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
        return
    assert variables["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert variables["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == configuration[-1]
    gathers = variables.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL")
    assert (gathers == "true") is (configuration == "deepspeed-zero3")
