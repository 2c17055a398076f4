"""generation_config.json: the tokens that end a text, and how tokens are chosen where nothing else is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from aigc_runtime.core.integers import as_integer
from aigc_runtime.errors import CheckpointError, InputError
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.io.printable import shown

__all__ = ["STOP_STRINGS", "read_sampling", "read_stop", "token_ids"]

STOP_STRINGS = "stop_strings"

_DRAWN_TOP_K = 50
"""What transformers draws from where a model that samples names no top_k."""
_ONLY_DRAWN = ("temperature", "top_k", "top_p", "min_p", "typical_p")
"""What matters where tokens are drawn, and not where the most likely one is taken."""
_NO_OPTIONS = (
    "_from_model_config",
    "transformers_version",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    STOP_STRINGS,
    "do_sample",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "compile_config",
    "disable_compile",
    "return_dict_in_generate",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
)
"""What says nothing about which tokens are chosen."""
_DEFAULTS: Mapping[str, Any] = {
    "assistant_confidence_threshold": 0.4,
    "assistant_early_exit": None,
    "assistant_lookbehind": 10,
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "num_assistant_tokens": 20,
    "num_assistant_tokens_schedule": "constant",
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "penalty_alpha": 0.0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "target_lookbehind": 10,
    "token_healing": False,
    "use_mtp": False,
    "is_assistant": False,
    "low_memory": False,
}
"""transformers' defaults of options that are not used here; those that are not listed are null by default."""


def read_sampling(config: Mapping[str, Any]) -> tuple[SamplingParams, tuple[str, ...]]:
    """How tokens are chosen, and notes of what is in the file and not used.

    Args:
        config: content of generation_config.json.

    Raises:
        CheckpointError: a value outside its range.
    """
    known = {field.name for field in fields(SamplingParams)}
    given = {name: value for name, value in config.items() if name in known and value is not None}
    notes = []
    draws = bool(config.get("do_sample", False))
    if draws:
        given.setdefault("temperature", 1.0)
        given.setdefault("top_k", _DRAWN_TOP_K)
        if given.get("num_beams", 1) != 1:  # a beam search draws nothing here: each generation would be refused
            notes.append(f"generation_config.json: not used, since do_sample is true: num_beams {given['num_beams']!r}")
            del given["num_beams"]
    else:
        unused = [name for name in _ONLY_DRAWN if name in given and given[name] not in _neutral(name)]
        if unused:
            said = ", ".join(f"{name} {given[name]!r}" for name in unused)
            notes.append(f"generation_config.json: not used, since do_sample is false: {said}")
        given = {name: value for name, value in given.items() if name not in _ONLY_DRAWN}
    try:
        sampling = SamplingParams(**given)
    except InputError as err:
        raise CheckpointError(f"generation_config.json: {err.message}", hint=err.hint) from err
    others = [
        f"{name} {value!r:.60}"
        for name, value in sorted(config.items())
        if name not in known and name not in _NO_OPTIONS and value is not None and value != _DEFAULTS.get(name)
    ]
    if others:
        notes.append(f"generation_config.json: not used: {', '.join(others)}")
    return sampling, tuple(notes)


def read_stop(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts before which a text ends.

    Args:
        config: content of generation_config.json.

    Raises:
        CheckpointError: neither a text nor a list of texts, or an empty one.
    """
    value = config.get(STOP_STRINGS)
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise CheckpointError(
            f"generation_config.json: {STOP_STRINGS} is {shown(value)}",
            hint="must be a text, or a list of texts, none of them empty",
        )
    return tuple(dict.fromkeys(texts))


def _neutral(name: str) -> tuple[Any, ...]:
    """Values that are said as often as they are left out."""
    return {"temperature": (1.0, 0.0), "top_k": (_DRAWN_TOP_K, 0), "top_p": (1.0,), "min_p": (0.0,)}.get(name, (1.0,))


def token_ids(name: str, value: object, *, where: str) -> tuple[int, ...]:
    """The ids of a field that holds one, several or none.

    Raises:
        CheckpointError: something else.
    """
    values = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    ids = [as_integer(one) for one in values]
    if any(i is None or i < 0 for i in ids):
        raise CheckpointError(f"{where}: {name} is {shown(value)}", hint="must be a token id, or a list of them")
    return tuple(dict.fromkeys(i for i in ids if i is not None))
