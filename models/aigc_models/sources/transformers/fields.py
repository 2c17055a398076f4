"""Read another library's config.json field by field: what is not read and not known to change nothing is refused."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from aigc_models.families.layers import MAX_SIZE
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["WITHOUT_EFFECT", "Fields"]

T = TypeVar("T")

# fmt: off
WITHOUT_EFFECT = frozenset((
    "architectures", "model_type", "auto_map", "torch_dtype", "dtype", "transformers_version", "tokenizer_class",
    "use_cache", "initializer_range", "attention_dropout", "hidden_dropout", "classifier_dropout", "resid_pdrop",
    "embd_pdrop", "attn_pdrop", "attention_probs_dropout_prob", "hidden_dropout_prob", "dropout",
    "pretraining_tp", "gradient_checkpointing", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "unk_token_id", "decoder_start_token_id", "return_dict", "return_dict_in_generate", "output_attentions",
    "output_hidden_states", "output_scores", "torchscript", "use_bfloat16", "id2label", "label2id", "num_labels",
    "problem_type", "finetuning_task", "task_specific_params", "prefix", "chunk_size_feed_forward", "max_length",
    "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    "summary_first_dropout", "base_model_tp_plan", "unsloth_version", "unsloth_fixed", "is_llama_config",
    "output_past", "predict_special_tokens", "transformers.js_config", "is_decoder",
))
# fmt: on
"""Fields of every family that do not change what a language model computes when it runs."""


class Fields:
    """The fields of a config.json, each of which must be read, or known to be without effect.

    Args:
        values: the parsed file, or an object in it.
        where: its name, for messages.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str = "config.json") -> None:
        self._values = values
        self._where = where
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether a field is there; it may be null."""
        return name in self._values

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._values.get(name) is not None

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE) -> int:
        """Read a whole number of a range; one without a default must be there."""
        value = self._given(name, default)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, value, f"a whole number from {low:,} to {high:,}")
        return value

    def maybe_integer(self, name: str, default: int | None = None) -> int | None:
        """Read a whole number of at least 1; null is None, and what is absent is the default."""
        self._read.add(name)
        return self.integer(name) if self.has(name) else None if name in self._values else default

    def number(self, name: str, default: float | None = None) -> float:
        """Read a number; one without a default must be there."""
        value = self._given(name, default)
        if not _is_number(value):
            raise self._wrong(name, value, "a number")
        return float(value)

    def positive(self, name: str, default: float) -> float:
        """Read a number above 0."""
        value = self.number(name, default)
        if value <= 0:
            raise self._wrong(name, value, "a number above 0")
        return value

    def maybe_number(self, name: str, default: float | None = None) -> float | None:
        """Read a number; null is None, and what is absent is the default."""
        self._read.add(name)
        return self.number(name) if self.has(name) else None if name in self._values else default

    def flag(self, name: str, default: bool) -> bool:
        """Read true or false."""
        value = self._given(name, default)
        if type(value) is not bool:
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: str) -> str:
        """Read a string."""
        value = self._given(name, default)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def choice(self, name: str, default: str, choices: Mapping[str, T]) -> T:
        """Read a string that is one of the keys; gives what it stands for."""
        value = self.text(name, default)
        if value not in choices:
            raise self._wrong(name, value, f"one of {', '.join(choices)}")
        return choices[value]

    def numbers(self, name: str) -> tuple[float, ...]:
        """Read a list of numbers; absent or null is none."""
        value = self._list(name)
        if not all(map(_is_number, value)):
            raise self._wrong(name, value, "a list of numbers")
        return tuple(float(number) for number in value)

    def list_of(self, name: str, valid: Iterable[object], *, length: int) -> tuple[Any, ...] | None:
        """Read a list of as many values, each among the valid ones; None where it is absent or null."""
        if not self.has(name):
            self._read.add(name)
            return None
        value, choices = self._list(name), list(valid)
        if len(value) != length or any(type(entry) is bool or entry not in choices for entry in value):
            raise self._wrong(name, value, f"a list of {length} of {', '.join(map(str, choices))}")
        return tuple(value)

    def inner(self, name: str) -> Fields | None:
        """Read an object; None where it is absent, null or empty."""
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "an object")
        if not value:
            return None
        return Fields(value, where=f"{self._where}: {name}")

    def either(self, name: str, other: str) -> Fields | None:
        """Read an object that has one of two names; None where it has neither.

        Raises:
            CheckpointError: it has both, and they differ.
        """
        one, two = self.inner(name), self.inner(other)
        if one is not None and two is not None and self._values[name] != self._values[other]:
            raise CheckpointError(
                f"{self._where}: {name} and {other} differ, and only one of them can count",
                hint="remove the one that is wrong",
            )
        return one or two

    def require(self, name: str, *values: object) -> None:
        """Refuse a field that is there and has none of these values: what else it may say is not computed here.

        A null is false.
        """
        self._read.add(name)
        if name not in self._values:
            return
        value = self._values[name]
        meant = False if value is None else value
        # A number is no true or false, though 1 == True.
        if not any(meant == one and isinstance(meant, bool) == isinstance(one, bool) for one in values):
            raise CheckpointError(
                f"{self._where}: {name} is {shown(value)}, which is not supported",
                hint=f"supported: {', '.join(map(shown, values))}; {_IN_PYTHON}",
            )

    def skip(self, *names: str) -> None:
        """Pass over fields that do not change what this family computes."""
        self._read.update(names)

    def finish(self) -> None:
        """Refuse a field that was neither read nor is without effect, unless it is null, false or empty.

        Raises:
            CheckpointError: names it, and the nearest field that is read.
        """
        for name, value in self._values.items():
            private = name.startswith("_")  # the library's own notes
            if name in self._read or name in WITHOUT_EFFECT or private or not value:
                continue
            if name == "quantization_config":
                method = value.get("quant_method") if isinstance(value, Mapping) else None
                raise CheckpointError(
                    f"{self._where}: the weights are quantized already{f' by {method}' if method else ''}",
                    hint="take the folder of the original weights: they are quantized here, and compared with them",
                )
            near = difflib.get_close_matches(name, self._read, n=1)
            raise CheckpointError(
                f"{self._where}: the field {shown(name)} is {shown(value)}, and what it means is not known here",
                hint=(f"nearest known: {near[0]!r}; " if near else "")
                + f"remove it if it does not change what the model computes; {_IN_PYTHON}",
            )

    def _given(self, name: str, default: Any) -> Any:
        self._read.add(name)
        value = self._values.get(name, default)
        if value is None and name not in self._values:
            raise CheckpointError(f"{self._where} lacks {name!r}", hint="is it complete? copy it again")
        return value

    def _list(self, name: str) -> list[Any]:
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def _wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: {name} is {shown(value)}", hint=f"must be {expected}")


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


_IN_PYTHON = "a model of another form comes in by a function of your own: aigc-export export file.py:function"
