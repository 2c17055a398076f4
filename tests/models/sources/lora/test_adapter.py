"""Adapters that are damaged, foreign or of a kind that is not supported are refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aigc_models.sources.lora.adapter import digests, open_adapter, open_adapters
from aigc_models.sources.lora.adapter_config import read_adapter_config
from aigc_models.sources.lora.request import parse_lora
from aigc_runtime.errors import CheckpointError, ConfigError

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
TENSORS = {f"{MODULE}.lora_A.weight": torch.ones(2, 8), f"{MODULE}.lora_B.weight": torch.ones(6, 2)}


def write(folder: Path, config: Any = CONFIG, tensors: dict[str, torch.Tensor] | None = None) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(TENSORS if tensors is None else tensors, folder / "adapter_model.safetensors")
    return str(folder)


def refused(path: str, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        open_adapters([path])
    assert caught.value.hint


def test_an_adapter_is_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    (adapter,) = open_adapters([f"{path}:-0.5"])
    assert set(adapter.modules) == {"model.layers.0.self_attn.q_proj"}
    assert adapter.scaling("model.layers.0.self_attn.q_proj") == -1.0
    ((text, digest),) = digests([adapter])
    assert (text, len(digest)) == (f"{path}:-0.5", 64)
    assert digest != digests(open_adapters([path]))[0][1]  # another scale makes another model


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [("a", "a", 1.0), ("a:2", "a", 2.0), ("a:b:1e-1", "a:b", 0.1), ("a/b:-1", "a/b", -1.0)],
)
def test_a_folder_and_a_scale_are_read(text: str, path: str, scale: float) -> None:
    found = parse_lora(text)
    assert (found.path, found.scale, found.text) == (Path(path), scale, text)


def test_a_folder_whose_name_ends_in_a_number_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a:2").mkdir()
    assert parse_lora(str(tmp_path / "a:2")).scale == 1.0
    assert parse_lora(f"{tmp_path / 'a:2'}:3").path == tmp_path / "a:2"


@pytest.mark.parametrize("text", ["", "a:b", "a:nan", "a:inf", ":2", "a\nb", "a:"])
def test_what_is_no_folder_and_scale_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--lora is"):
        parse_lora(text)


def test_scalings_and_patterns() -> None:
    config = read_adapter_config(
        {
            **CONFIG,
            "r": 4,
            "use_rslora": True,
            "rank_pattern": {"q_proj": 9, "^model.layers.1": 5},
            "alpha_pattern": {r"layers\.[0-3].self_attn.k_proj": 6.5},
        }
    )
    assert config.rank_of("model.layers.0.self_attn.q_proj") == 9
    assert config.rank_of("model.layers.0.self_attn.xq_proj") == 4
    assert config.rank_of("model.layers.1.mlp") == 4  # a pattern reaches to the end of a name
    assert config.scaling("model.layers.0.self_attn.q_proj") == 4 / math.sqrt(9)
    assert config.scaling("model.layers.2.self_attn.k_proj") == 6.5 / 2


@pytest.mark.parametrize(
    "pattern", [r"layers\.(0|1)\.(?:self_attn|mlp)\.[a-z]+_proj", r"(?P<n>.*)q_pro.?", "q_proj|k_proj"]
)
def test_short_expressions_are_patterns(pattern: str) -> None:
    config = read_adapter_config({**CONFIG, "rank_pattern": {pattern: 9}})
    assert config.rank_of("model.layers.1.self_attn.q_proj") == 9
    assert config.rank_of("model.layers.1.mlp.gate") == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"trainable_token_indices": [1]}, "'trainable_token_indices'"),
        ({"target_parameters": ["experts"]}, "'target_parameters'"),
        ({"layer_replication": [[0, 2]]}, "'layer_replication'"),
        ({"alora_invocation_tokens": [5]}, "'alora_invocation_tokens'"),
        ({"megatron_config": {"a": 1}}, "'megatron_config'"),
        ({"use_qalora": True}, "'use_qalora'"),
        ({"surprise": 1}, "'surprise'"),
        ({"r": 0}, "r is 0"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head'"),
        ({"exclude_modules": [3]}, r"exclude_modules is \[3\]"),
        ({"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["proj"]}, "has no tensors of v_proj"),
        ({"rank_pattern": [1]}, "rank_pattern is"),
        ({"rank_pattern": {"q": 1.5}}, "gives 'q' the number 1.5"),
        ({"alpha_pattern": {"q": 0}}, "gives 'q' the number 0"),
        ({"rank_pattern": {"(a+)+$": 2}}, "the pattern"),
        ({"rank_pattern": {"a*b*c*d": 2}}, "the pattern"),
        ({"rank_pattern": {".*.*" + 30 * ".?" + "x": 2}}, "the pattern"),
        ({"alpha_pattern": {15 * "(.|..|...)" + "x": 2}}, "the pattern"),
        ({"rank_pattern": {"(": 2}}, "the pattern"),
        ({"rank_pattern": {"x" * 300: 2}}, "the pattern"),
        ({"rank_pattern": {"a)(b": 2}}, "the pattern"),
        ({"rank_pattern": {str(i): 2 for i in range(5000)}}, "rank_pattern is"),
        ({"r": 3}, "has matrices of"),
        ({"use_dora": True}, "not both matrices and their magnitude"),
        ({"target_modules": ["q_proj", "v_proj"]}, "has no tensors of v_proj"),
    ],
)
def test_what_a_configuration_says_is_supported_or_refused(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    refused(write(tmp_path / "a", {**CONFIG, **change}), match)


A, B = TENSORS


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({}, "no tensors of"),
        ({A: TENSORS[A]}, "not both matrices alone"),
        ({**TENSORS, "other.lora_A.weight": torch.ones(2, 8)}, "'other.lora_A.weight'"),
        ({**TENSORS, f"base_model.model.{'a.' * 300}lora_A.weight": torch.ones(2, 8)}, "632 characters"),
        ({**TENSORS, f"{MODULE}.bias": torch.ones(6)}, "q_proj.bias"),
        ({**TENSORS, f"{MODULE}.lora_B.bias": torch.ones(6)}, "q_proj.lora_B.bias"),
        ({**TENSORS, f"{MODULE}.lora_A.default.weight": torch.ones(6)}, "lora_A.default"),
        ({A: torch.ones(8), B: TENSORS[B]}, "has matrices of"),
        ({A: TENSORS[A], B: torch.ones(6, 3)}, "has matrices of"),
        ({**TENSORS, f"{MODULE}.lora_magnitude_vector": torch.ones(6)}, "not both matrices alone"),
    ],
)
def test_what_tensors_are_is_supported_or_refused(tensors: dict[str, Any], match: str, tmp_path: Path) -> None:
    refused(write(tmp_path / "a", tensors=tensors), match)


def test_what_is_not_finite_is_refused_when_it_is_read(tmp_path: Path) -> None:
    bad = torch.full((2, 8), torch.nan)
    (adapter,) = open_adapters([write(tmp_path / "a", tensors={A: bad, B: TENSORS[B]})])
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        adapter.read(A)


def test_files_that_are_missing_or_damaged_are_said(tmp_path: Path) -> None:
    refused(str(tmp_path / "none"), "no adapter at")
    (tmp_path / "file").write_text("x")
    refused(str(tmp_path / "file"), "has no adapter_config.json")
    path = Path(write(tmp_path / "a"))
    (path / "adapter_config.json").write_text("{")
    refused(str(path), "adapter_config.json")
    (path / "adapter_config.json").write_text("[]")
    refused(str(path), "adapter_config.json")
    (path / "adapter_config.json").write_text(json.dumps(CONFIG))
    weights = path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    refused(str(path), "cut short")
    weights.rename(path / "adapter_model.bin")
    refused(str(path), "adapter_model.bin, which is not read")


def test_an_adapter_is_opened_by_its_request(tmp_path: Path) -> None:
    assert open_adapter(parse_lora(write(tmp_path / "a"))).config.alpha == 4
