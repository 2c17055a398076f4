"""A field of config.json is read, refused, or without effect: as transformers itself shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
import torch
from tests.models.sources.transformers.published import config_of
from tests.models.sources.transformers.small_models import (
    SCALED,
    SMALL,
    config_json,
    small_model,
    token_ids,
    weights_of,
)

from aigc_models.sources.transformers.families import read_config
from aigc_models.sources.transformers.fields import WITHOUT_EFFECT, Fields
from aigc_models.sources.transformers.weights import load_model
from aigc_runtime.errors import AigcError, CheckpointError

transformers: Any = pytest.importorskip("transformers")
strict_errors: Any = pytest.importorskip("huggingface_hub.errors")

ACCURACY = 1e-3
"""Of the reference's scale: a field that counts moves the logits more, whatever it makes of their rounding."""
OTHERS: dict[str, Any] = {
    "use_cache": False,
    "initializer_range": 0.5,
    "attention_dropout": 0.3,
    "hidden_dropout": 0.3,
    "classifier_dropout": 0.3,
    "resid_pdrop": 0.3,
    "embd_pdrop": 0.3,
    "attn_pdrop": 0.3,
    "attention_probs_dropout_prob": 0.3,
    "hidden_dropout_prob": 0.3,
    "dropout": 0.3,
    "pretraining_tp": 2,
    "gradient_checkpointing": True,
    "bos_token_id": 7,
    "eos_token_id": [8, 9],
    "sep_token_id": 3,
    "unk_token_id": 3,
    "decoder_start_token_id": 3,
    "return_dict_in_generate": True,
    "output_scores": True,
    "torchscript": True,
    "use_bfloat16": True,
    "num_labels": 3,
    "problem_type": "regression",
    "finetuning_task": "x",
    "task_specific_params": {"x": 1},
    "prefix": "x",
    "chunk_size_feed_forward": 3,
    "max_length": 5,
    "min_length": 5,
    "do_sample": True,
    "early_stopping": True,
    "num_beams": 3,
    "num_beam_groups": 3,
    "diversity_penalty": 0.5,
    "temperature": 0.1,
    "top_k": 3,
    "top_p": 0.3,
    "typical_p": 0.3,
    "repetition_penalty": 2.0,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[1]],
    "num_return_sequences": 2,
    "forced_bos_token_id": 3,
    "forced_eos_token_id": 3,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [2, 1.5],
    "suppress_tokens": [1],
    "begin_suppress_tokens": [1],
    "summary_type": "last",
    "summary_use_proj": False,
    "summary_activation": "tanh",
    "summary_proj_to_labels": False,
    "summary_first_dropout": 0.3,
    "base_model_tp_plan": {"x": "colwise"},
    "tokenizer_class": "X",
    "unsloth_version": "1",
    "unsloth_fixed": True,
    "is_llama_config": True,
    "output_past": True,
    "predict_special_tokens": True,
    "transformers.js_config": {"x": 1},
    "is_decoder": True,
}
"""A field that is said to be without effect -> another value than it has."""
ABOUT_THE_FILE = {
    "architectures", "model_type", "auto_map", "torch_dtype", "dtype", "transformers_version", "id2label", "label2id",
    "return_dict", "output_attentions", "output_hidden_states", "pad_token_id",
}  # fmt: skip
"""Fields that say which class it is, of which type the weights were, and what a call gives back beside the logits."""


@torch.no_grad()
def logits_of(values: Mapping[str, Any], context: int = 96) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """transformers' random model of a config.json, ids, and its logits."""
    config = transformers.AutoConfig.for_model(**json.loads(json.dumps(values)))
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        wide = parameter.dim() > 1
        spread = 0.1 if not wide else 0.02 if len(parameter) == config.vocab_size else 0.3
        parameter.copy_(spread * torch.randn_like(parameter) + (0 if wide else parameter))
    ids = token_ids(2, min(20, config.max_position_embeddings)) % config.vocab_size
    return model, ids, model(ids, use_cache=False, return_dict=True).logits


@pytest.mark.parametrize("family", list(SMALL))
def test_fields_without_effect_are_those_that_transformers_passes_over(family: str) -> None:
    assert {*OTHERS, *ABOUT_THE_FILE} == WITHOUT_EFFECT
    base = config_json(small_model(family))
    changed = {**base, **OTHERS}
    assert read_config(changed) == read_config(base)
    torch.testing.assert_close(logits_of(changed)[2], logits_of(base)[2], rtol=0, atol=0)


def other_values(value: object) -> Iterator[object]:
    """Values of its own type that a field could have instead."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield 2 * value
    elif isinstance(value, float):
        yield 1.5 * value
    elif isinstance(value, list):
        yield from (value[::-1], value[:-1])
    elif isinstance(value, dict):
        for name in value:
            yield from ({**value, name: other} for other in other_values(value[name]))
        yield {**value, "other": 1}


def wild_values(value: object) -> Iterator[object]:
    """Values that a damaged file has."""
    yield from (None, {}, [], "x", True, 7, 0.5, float("nan"), 10**400, -1, 0, 2**40, [None], {"a": []}, [[]])
    if isinstance(value, list):
        yield from ([*value, *value[:1]], [None] * len(value), [float("nan")] * len(value), ["x"] * len(value))
    if isinstance(value, dict):
        for name in value:
            yield from ({**value, name: other} for other in wild_values(value[name]))


FOREIGN: dict[str, list[Any]] = {
    "attention_bias": [True],
    "mlp_bias": [True],
    "sliding_window": [5],
    "use_sliding_window": [True],
    "layer_types": [["sliding_attention", "full_attention"], ["full_attention", "full_attention"]],
    "head_dim": [10],
    "partial_rotary_factor": [0.5],
    "rope_theta": [777.0],
    "rope_scaling": [{"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}],
    "is_causal": [False, None],
    "use_bidirectional_attention": [True],
    "logits_scaling": [2.0],
    "attn_logit_softcapping": [5.0],
    "final_logit_softcapping": [5.0],
    "tie_word_embeddings": [True, False],
    "original_max_position_embeddings": [16],
    "rotary_pct": [0.5],
    "rotary_emb_base": [500.0],
    "query_pre_attn_scalar": [9],
    "scale_attn_by_inverse_layer_idx": [True],
    "scale_attn_weights": [False],
    "no_rope_layers": [[1, 0]],
    "use_parallel_residual": [False],
    "hidden_act": ["relu"],
    "hidden_activation": ["silu"],
    "activation_function": ["relu"],
    "layer_norm_eps": [1e-2],
    "rms_norm_eps": [1e-2],
    "attention_multiplier": [0.3],
    "residual_multiplier": [0.3],
    "embedding_multiplier": [0.3],
    "n_inner": [33],
    "max_window_layers": [0],
    "sliding_window_pattern": [1],
    "rope_local_base_freq": [77.0],
    "per_layer_config": [{"0": {"hidden_act": "relu"}}],
}
"""Fields of one family or another, which every family is given."""
CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {"family": family}) for family in SMALL),
    *((name, SCALED[name]) for name in ("llama with yarn", "qwen3 with llama3", "phi3 with longrope")),
]


def base_of(change: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(change)
    return config_json(small_model(given.pop("family"), **given))


def unequal(base: Mapping[str, Any], cases: Iterator[tuple[str, object]]) -> tuple[list[str], int]:
    """The cases that are accepted here and computed otherwise by transformers; and how many were accepted."""
    found, accepted, seen = [], 0, set()
    for name, value in cases:
        changed = {**base, name: value}
        if (key := json.dumps([name, value])) in seen or value == base.get(name, "-"):
            continue
        seen.add(key)
        try:
            read_config(changed)
        except AigcError:
            continue
        accepted += 1
        try:
            theirs, ids, expected = logits_of(changed)
        except strict_errors.StrictDataclassError:  # of types alone: 7 for 7.0, false for null
            continue
        except (TypeError, AttributeError) as err:  # it makes no model of what is empty; here that says nothing
            found += [f"{name}: {str(value)[:100]}: {err}"] if value else []
            continue
        ours, _ = load_model(changed, weights_of(theirs), source="memory")
        with torch.no_grad():
            error = float((ours(ids).logits - expected).abs().max())
        if not error <= ACCURACY * max(float(expected.abs().max()), 1e-6):
            found.append(f"{name}: {str(value)[:100]}: {error}")
    return found, accepted


def fields_of(base: Mapping[str, Any]) -> Iterator[str]:
    return (name for name in base if name not in WITHOUT_EFFECT and not name.startswith("_"))


@pytest.mark.parametrize(("name", "change"), CASES, ids=[name for name, _ in CASES])
def test_another_value_is_refused_or_changes_the_logits_as_in_transformers(name: str, change: dict[str, Any]) -> None:
    base = base_of(change)
    cases = [(field, value) for field in fields_of(base) for value in other_values(base[field])]
    cases += [(field, value) for field, values in FOREIGN.items() for value in values]
    found, accepted = unequal(base, iter(cases))
    assert found == []
    assert accepted > 5


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "olmo2", "granite"])
def test_where_there_is_no_number_of_key_heads_there_are_as_many_as_of_queries(family: str) -> None:
    base = config_json(small_model(family))
    found, accepted = unequal(base, iter([("num_key_value_heads", None)]))
    assert (found, accepted) == ([], 1)
    assert read_config({**base, "num_key_value_heads": None}).kv_heads == base["num_attention_heads"]


@pytest.mark.parametrize(("name", "change"), CASES, ids=[name for name, _ in CASES])
def test_a_damaged_value_is_refused_by_our_own_error(name: str, change: dict[str, Any]) -> None:
    base, tried, accepted = base_of(change), 0, 0
    for field in (*fields_of(base), *FOREIGN):
        for value in wild_values(base.get(field)):
            tried += 1
            with suppress(AigcError):
                read_config({**base, field: value})
                accepted += 1
    assert accepted < tried / 2  # most are refused, and nothing else than our own error came


@pytest.mark.stress
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
@pytest.mark.parametrize(("name", "change"), CASES, ids=[name for name, _ in CASES])
def test_a_damaged_value_is_refused_or_computed_as_in_transformers(name: str, change: dict[str, Any]) -> None:
    base = base_of(change)
    cases = ((field, value) for field in (*fields_of(base), *FOREIGN) for value in wild_values(base.get(field)))
    assert unequal(base, cases)[0] == []


def test_that_comparison_can_fail(monkeypatch: Any) -> None:
    # A field that counts, passed over.
    monkeypatch.setattr(Fields, "require", lambda self, name, *_: self.skip(name))
    base = config_json(small_model("gpt2"))
    found, _ = unequal(base, iter([("scale_attn_weights", False), ("scale_attn_by_inverse_layer_idx", True)]))
    assert [case.split(":")[0] for case in found] == ["scale_attn_weights", "scale_attn_by_inverse_layer_idx"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 4096.0}, "config.json: hidden_size is 4096.0\nmust be a whole number from 1 to 16,777,216"),
        ({"hidden_size": True}, "hidden_size is True\nmust be a whole number"),
        ({"vocab_size": -1}, "vocab_size is -1\nmust be a whole number"),
        ({"vocab_size": 10**400}, "vocab_size is an integer of 401 digits\nmust be a whole number"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000\nmust be a whole number from 1 to 1,024"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan\nmust be a number"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf\nmust be a number"),
        ({"tie_word_embeddings": 0}, "tie_word_embeddings is 0\nmust be true or false"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings is None\nmust be true or false"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'\nmust be an object"),
        ({"rope_scaling": {"type": "linear"}}, "config.json: rope_scaling lacks 'factor'\nis it complete?"),
        ({"hidden_act": 3}, "hidden_act is 3\nmust be a string"),
        (
            {"hiden_size": 12},
            "the field 'hiden_size' is 12, and what it means is not known here\nnearest known: 'hidden",
        ),
        ({"x" * 5000: 12}, "the field 'xxxxxxxxxxxxxxxxxxx...xxxxxxxxx' (5,002 characters) is 12"),
        ({"is_causal": False}, "is_causal is False, which is not supported"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "the weights are quantized already by gptq\ntake the folder of the original weights",
        ),
        ({"quantization_config": [1]}, "the weights are quantized already\n"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
            "rope_scaling and rope_parameters differ, and only one of them can count",
        ),
    ],
)
def test_a_bad_field_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_config({**config_of("Llama-2-7b-hf"), **change})


def test_numbers_of_a_list_are_numbers() -> None:
    assert Fields({"a": [1, 2.5]}).numbers("a") == (1.0, 2.5)
    for wrong in ([True], ["1"], [float("nan")], [10**400], 3):
        with pytest.raises(CheckpointError, match=r"config\.json: a is .*\nmust be a list"):
            Fields({"a": wrong}).numbers("a")


def test_what_is_off_or_empty_needs_no_meaning() -> None:
    nothing: dict[str, Any] = {"a": None, "b": False, "c": [], "d": {}, "e": "", "f": 0, "_private": {"x": 1}}
    assert read_config({**config_of("Llama-2-7b-hf"), **nothing}) == read_config(config_of("Llama-2-7b-hf"))
