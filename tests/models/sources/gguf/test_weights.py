"""Every architecture in GGUF files computes what transformers computes with the same weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.sources.gguf.small_files import ARCHITECTURES, write_model
from tests.models.sources.transformers.small_models import VOCABULARY, small_model

from aigc_models.families.lm import TransformerLM
from aigc_models.sources.gguf.architectures import ARCHITECTURES as KNOWN
from aigc_models.sources.gguf.architectures import read_config_json
from aigc_models.sources.gguf.metadata import Metadata
from aigc_models.sources.gguf.weights import load_gguf_model
from aigc_models.weights.gguf_file import GgufFile
from aigc_runtime.errors import CheckpointError, ConfigError

ACCURACY = 1e-5
"""Of the reference's scale."""
# What llama.cpp's code knows and the file does not say, or cannot say.
CHANGES: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": False},
    "smollm3": {"no_rope_layer_interval": 4, "num_hidden_layers": 5},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3_text": {"query_pre_attn_scalar": 16, "sliding_window_pattern": 6, "num_hidden_layers": 7},
    "phi3": {"sliding_window": 7},
}


def load(path: Path) -> TransformerLM:
    meta = Metadata(GgufFile(path))
    return load_gguf_model(meta, read_config_json(meta))[0]


@torch.no_grad()
def error(ours: TransformerLM, theirs: Any) -> float:
    ids = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids).logits
    return float((ours(ids).logits - expected).abs().max()) / float(expected.abs().max())


def test_every_architecture_has_a_small_model() -> None:
    assert set(ARCHITECTURES.values()) == set(KNOWN)


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    theirs = small_model(kind, **CHANGES.get(kind, {}))
    write_model(tmp_path / "model.gguf", theirs, kind=kind)
    assert error(load(tmp_path / "model.gguf"), theirs) < ACCURACY


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def llama3_divisors(theta: float, size: int) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter writes for Llama 3: the divisor of each frequency."""
    divisors = []
    for i in range(0, size, 2):
        wavelength = 2 * math.pi * theta ** (i / size)
        smooth = min(max((8192 / wavelength - 1) / (4 - 1), 0), 1)
        divisors.append(1 / ((1 - smooth) / 8.0 + smooth))
    return np.array(divisors, np.float32)


def test_llama_3_scaling_is_known_by_its_divisors(tmp_path: Path) -> None:
    rope = {**LLAMA3, "rope_theta": 500000.0, "original_max_position_embeddings": 8192}
    theirs = small_model("llama", head_dim=16, rope_parameters=rope, max_position_embeddings=65536)
    divisors = llama3_divisors(500000.0, 16)
    assert 1 < divisors.max() <= 8
    write_model(tmp_path / "m.gguf", theirs, kind="llama", tensors={"rope_freqs.weight": divisors})
    meta = Metadata(GgufFile(tmp_path / "m.gguf"))
    ours = load(tmp_path / "m.gguf")
    assert read_config_json(meta)["rope_parameters"] == rope
    assert error(ours, theirs) < ACCURACY


def test_other_divisors_are_refused(tmp_path: Path) -> None:
    for divisors in ([1.0, 1.25, 2.0, 5.0], [1.0, 8.0], [0.0] * 4):
        tensors = {"rope_freqs.weight": np.array(divisors, np.float32)}
        write_model(tmp_path / "m.gguf", small_model("llama"), kind="llama", tensors=tensors)
        with pytest.raises(CheckpointError, match="divisors that are not those of Llama 3's scaling"):
            load(tmp_path / "m.gguf")


SCALINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0}, {"rope.scaling.type": "linear"}),
    "a factor alone": ("llama", {"rope_type": "linear", "factor": 4.0}, {}),
    "yarn": (
        "qwen2",
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
        {"rope.scaling.type": "yarn", "rope.scaling.original_context_length": 24},
    ),
}


@pytest.mark.parametrize("name", list(SCALINGS))
def test_scaled_positions(name: str, tmp_path: Path) -> None:
    kind, rope, values = SCALINGS[name]
    theirs = small_model(kind, rope_parameters={"rope_theta": 5000.0, **rope}, **CHANGES.get(kind, {}))
    values = {f"{kind}.{key}": value for key, value in {"rope.scaling.factor": 4.0, **values}.items()}
    write_model(tmp_path / "m.gguf", theirs, kind=kind, values=values)
    assert error(load(tmp_path / "m.gguf"), theirs) < ACCURACY
    without = {key: None for key in values if key.endswith("factor")}
    write_model(tmp_path / "other.gguf", theirs, kind=kind, values={**values, **without})
    assert error(load(tmp_path / "other.gguf"), theirs) > 100 * ACCURACY


def test_local_layers_of_gemma_3_are_not_scaled(tmp_path: Path) -> None:
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    theirs = small_model("gemma3_text", rope_parameters=rope, **CHANGES["gemma3_text"])
    values = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    write_model(tmp_path / "m.gguf", theirs, kind="gemma3_text", values=values)
    assert error(load(tmp_path / "m.gguf"), theirs) < ACCURACY


def test_longrope_and_partly_turned_heads_of_phi_3(tmp_path: Path) -> None:
    short, long = np.array([1.0, 1.5], np.float32), np.array([2.0, 4.0], np.float32)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": short.tolist(),
        "long_factor": long.tolist(),
        "partial_rotary_factor": 0.5,
        "original_max_position_embeddings": 24,
    }
    theirs = small_model("phi3", rope_parameters=rope, original_max_position_embeddings=24)
    write_model(
        tmp_path / "m.gguf",
        theirs,
        kind="phi3",
        values={"phi3.rope.scaling.original_context_length": 24},
        tensors={"rope_factors_short.weight": short, "rope_factors_long.weight": long},
    )
    assert error(load(tmp_path / "m.gguf"), theirs) < ACCURACY


def test_biases_and_an_output_layer_of_its_own(tmp_path: Path) -> None:
    for kind, change in {"llama": {"attention_bias": True, "mlp_bias": True}, "gpt2": {}, "qwen3": {}}.items():
        theirs = small_model(kind, tie_word_embeddings=kind == "qwen3", **change)
        write_model(tmp_path / f"{kind}.gguf", theirs, kind=kind)
        ours = load(tmp_path / f"{kind}.gguf")
        assert error(ours, theirs) < ACCURACY, kind
        assert ours.config.tie_embeddings is (kind == "qwen3")


def test_quantized_weights_are_those_that_transformers_reads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
    theirs = small_model("llama", **sizes, tie_word_embeddings=True)
    kinds = iter(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"] * 10)
    write_model(
        tmp_path / "m.gguf",
        theirs,
        kind="llama",
        values={"general.name": "small", "llama.vocab_size": VOCABULARY},
        quantize=lambda _, data: next(kinds) if data.ndim == 2 else "F32",
    )
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    assert error(load(tmp_path / "m.gguf"), read.eval()) < ACCURACY


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"general.architecture": "llama4"}, "architecture 'llama4'.*not known"),
    "no architecture": ({"general.architecture": None}, "general.architecture is None"),
    "an adapter": ({"general.type": "adapter"}, "of type 'adapter'"),
    "one of several files": ({"split.count": 3}, "one of 3 parts"),
    "experts": ({"llama.expert_count": 8}, "'expert_count' is 8"),
    "an unknown key": ({"llama.attention.surprise": True}, "'attention.surprise' is True"),
    "another vocabulary": ({"llama.vocab_size": 98}, "vocab_size is 98, but 'token_embd.weight' has 97 rows"),
    "a missing size": ({"llama.block_count": None}, "lacks 'block_count'"),
    "no layers": ({"llama.block_count": 0}, "block_count is 0"),
    "more layers than tensors": ({"llama.block_count": 3}, r"layers\.2"),
    "fewer layers than tensors": ({"llama.block_count": 1}, r"layers\.1"),
    "another width": ({"llama.embedding_length": 60, "llama.rope.dimension_count": None}, "shape"),
    "heads that do not divide": ({"llama.attention.head_count": 5}, "must be a multiple|num_attention_heads 5"),
    "layers of different heads": ({"llama.attention.head_count_kv": [2, 3]}, r"head_count_kv is \[2, 3\]"),
    "another scaling": ({"llama.rope.scaling.type": "ntk"}, "rope.scaling.type is 'ntk'"),
    "scaled attention": ({"llama.rope.scaling.attn_factor": 2.0}, "attn_factor is 2.0"),
    "more turned than a head has": ({"llama.rope.dimension_count": 10}, "dimension_count is 10"),
    "no positions": ({"llama.context_length": 0}, "context_length is 0"),
}


@pytest.fixture(scope="module")
def llama() -> Any:
    return small_model("llama")


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_not_supported_is_said(name: str, llama: Any, tmp_path: Path) -> None:
    change, match = REFUSED[name]
    write_model(tmp_path / "m.gguf", llama, kind="llama", values=change)
    with pytest.raises((CheckpointError, ConfigError), match=match) as caught:
        load(tmp_path / "m.gguf")
    assert caught.value.hint
