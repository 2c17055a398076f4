"""Adapters merged while a model is loaded give the weights and the logits that peft gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.sources.gguf.small_files import write_model
from tests.models.sources.lora.small_adapters import adapt, merged, peft, save
from tests.models.sources.transformers.small_models import VOCABULARY, InMemory, config_json, small_model

from aigc_models.families.lm import TransformerLM
from aigc_models.sources.gguf.architectures import read_config_json
from aigc_models.sources.gguf.metadata import Metadata
from aigc_models.sources.gguf.weights import load_gguf_model
from aigc_models.sources.lora.adapter import open_adapters
from aigc_models.sources.transformers.weights import load_model
from aigc_models.weights.gguf_file import GgufFile
from aigc_runtime.errors import CheckpointError

ACCURACY = 1e-5
"""Of the reference's scale."""
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "every projection": ("llama", {"target_modules": "all-linear", "lora_alpha": 16}),
    "of attention alone": ("qwen2", {"target_modules": ["q_proj", "v_proj"]}),
    "by the root of the rank": ("llama", {"target_modules": ATTENTION, "use_rslora": True, "lora_alpha": 3}),
    "ranks and alphas of their own": (
        "llama",
        {
            "target_modules": ATTENTION,
            "rank_pattern": {"layers.0.self_attn.q_proj": 2, r"layers.\d.self_attn.v_proj": 3},
            "alpha_pattern": {"o_proj": 1, "^model.layers.1.self_attn.k_proj": 20},
        },
    ),
    "fused by parts": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "down_proj"]}),
    "fused by heads": ("gpt_neox", {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
    "inputs first": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "of no task": ("llama", {"target_modules": ["q_proj"], "task_type": None}),
    "all but some": ("llama", {"target_modules": "all-linear", "exclude_modules": ["q_proj", "mlp.up_proj"]}),
    "all but a pattern": ("llama", {"target_modules": "all-linear", "exclude_modules": r".*\.q_proj"}),
    "whole modules by the end of a name": ("llama", {"target_modules": ["k_proj"], "modules_to_save": ["norm"]}),
    "norms with an offset": ("gemma2", {"target_modules": ["gate_proj"], "modules_to_save": ["input_layernorm"]}),
    "an output layer": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "an embedding": ("llama", {"target_modules": ["k_proj", "embed_tokens"]}),
    "whole modules": ("llama", {"target_modules": ["k_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
    "dora": ("llama", {"target_modules": "all-linear", "use_dora": True}),
    "dora, fused": ("phi3", {"target_modules": ["qkv_proj"], "use_dora": True}),
    "dora, inputs first": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
}


def load(model: Any, adapters: Sequence[str] = ()) -> TransformerLM:
    opened = open_adapters(adapters)
    return load_model(config_json(model), InMemory(model.state_dict()), source="memory", adapters=opened)[0]


@torch.no_grad()
def error(ours: TransformerLM, theirs: Any) -> float:
    ids = torch.randint(VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    return float((ours(ids).logits - expected).abs().max()) / float(expected.abs().max())


def assert_same(ours: TransformerLM, theirs: Any) -> None:
    expected = load(theirs).state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(CASES))
def test_weights_and_logits_are_those_of_peft(name: str, tmp_path: Path) -> None:
    family, config = CASES[name]
    base = small_model(family)
    adapted = adapt(base, **config)
    ours = load(base, [save(adapted, tmp_path / "adapter")])
    assert_same(ours, merged(adapted))
    assert error(ours, adapted) < ACCURACY
    assert error(load(base), adapted) > 100 * ACCURACY  # it does something


@pytest.mark.filterwarnings("ignore")
def test_adapters_are_merged_in_their_order_and_scaled(tmp_path: Path) -> None:
    base = small_model("llama")
    first = adapt(base, target_modules=["q_proj", "up_proj"])
    second = adapt(base, seed=2, target_modules=["q_proj"], use_dora=True)
    paths = [save(first, tmp_path / "a"), save(second, tmp_path / "b:2")]
    ours = load(base, [f"{paths[0]}:0.25", paths[1]])
    for module in first.modules():
        if hasattr(module, "set_scale") and module is not first:
            module.set_scale("default", 0.25)
    both = peft.PeftModel.from_pretrained(merged(first), paths[1])
    assert_same(ours, merged(both))
    assert error(load(base, [paths[0], paths[1]]), merged(both)) > 100 * ACCURACY


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_merged_into_a_gguf_file(tmp_path: Path) -> None:
    for kind in ("llama", "phi3"):
        base = small_model(kind)
        write_model(tmp_path / f"{kind}.gguf", base, kind=kind)
        adapted = adapt(base, target_modules="all-linear")
        path = save(adapted, tmp_path / kind)
        meta = Metadata(GgufFile(tmp_path / f"{kind}.gguf"))
        ours, _ = load_gguf_model(meta, read_config_json(meta), adapters=open_adapters([path]))
        assert_same(ours, merged(adapted))
        assert error(ours, adapted) < ACCURACY


@pytest.mark.filterwarnings("ignore")
def test_sixteen_bits_on_either_side(tmp_path: Path) -> None:
    base = small_model("llama").to(torch.bfloat16).float()
    adapted = adapt(base, target_modules=ATTENTION)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.float16).float()
    path = save(adapted.half(), tmp_path / "adapter")
    stored = InMemory({name: tensor.to(torch.bfloat16) for name, tensor in base.state_dict().items()})
    ours, notes = load_model(config_json(base), stored, source="memory", adapters=open_adapters([path]))
    assert_same(ours, merged(adapted.float()))
    assert any("bfloat16" in note for note in notes)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "change", "match"),
    [
        (
            "qwen3",
            {"head_dim": 16},
            r"'model.layers.0.self_attn.q_proj' as one of \[48, 48\], the model's is of \[96, 48\]",
        ),
        ("llama", {"num_hidden_layers": 1}, r"changes 'model.layers.1.self_attn.q_proj', which"),
        ("gpt2", {}, "does not have"),
        ("phi3", {}, "does not have"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    family: str, change: dict[str, Any], match: str, tmp_path: Path
) -> None:
    path = save(adapt(small_model("llama"), target_modules=["q_proj"]), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "maker/base"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=match) as caught:
        load(small_model(family, **change), [path])
    assert "another model: it was made for 'maker/base'" in caught.value.hint


@pytest.mark.filterwarnings("ignore")
def test_what_is_tied_is_not_changed_alone(tmp_path: Path) -> None:
    base = small_model("llama", tie_word_embeddings=True)
    cases: tuple[dict[str, Any], ...] = (
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    )
    for number, config in enumerate(cases):
        path = save(adapt(base, **config), tmp_path / str(number))
        with pytest.raises(CheckpointError, match="which this model also uses as"):
            load(base, [path])
