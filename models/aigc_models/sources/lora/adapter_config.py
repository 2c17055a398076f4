"""adapter_config.json: what is said there changes what is merged, is known to change nothing, or is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_models.sources.transformers.fields import Fields
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = ["AdapterConfig", "read_adapter_config"]

_WHERE = "adapter_config.json"
_WITHOUT_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",  # the family knows it of each of its modules
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
)
"""Fields that change training, or say which modules have tensors, which the tensors say themselves."""
_INITIAL = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Ways to begin that leave the model's own weights as they are."""
_MAX_PATTERN, _MAX_PATTERNS = 200, 4096
"""Characters of a pattern, and patterns."""
_REPEATED = re.compile(r"[*+{]|(?<!\()\?")
"""A repetition; `?` behind a parenthesis says of which kind a group is."""
_MAX_REPEATED = 2


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The content of adapter_config.json.

    Attributes:
        rank: r.
        alpha: numerator of the scaling.
        by_root: the scaling is alpha / sqrt(r) (Kalajdzievski 2023, "rsLoRA"), not alpha / r.
        dora: each row keeps a norm of its own (Liu et al. 2024, "DoRA", eq. 5).
        ranks: pattern of modules' names -> their own rank; of several the first counts.
        alphas: likewise, its own alpha.
        targets: names that modules end with, each of which has some; empty where they are given otherwise.
        replaced: what the names of modules that come whole end with.
        base: the model that it was made for, as its maker named it.
    """

    rank: int
    alpha: float
    by_root: bool = False
    dora: bool = False
    ranks: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    alphas: Mapping[re.Pattern[str], float] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    base: str = ""

    def rank_of(self, module: str) -> int:
        """The rank of a module."""
        return int(_of_pattern(self.ranks, module, self.rank))

    def scaling(self, module: str) -> float:
        """What multiplies the product of a module's two matrices."""
        rank = self.rank_of(module)
        return _of_pattern(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.by_root else rank)


def read_adapter_config(values: Mapping[str, Any]) -> AdapterConfig:
    """Read it; every field must be known.

    Raises:
        CheckpointError: another kind of adapter, or a field or value that is not supported; names it.
    """
    fields = Fields(values, where=_WHERE)
    fields.require("peft_type", "LORA")
    if fields.has("task_type"):  # peft writes null where none was named
        fields.require("task_type", "CAUSAL_LM")
    fields.skip("task_type")
    fields.require("bias", "none")
    fields.require("lora_bias", False)
    fields.require("init_lora_weights", *_INITIAL)
    fields.skip(*_WITHOUT_EFFECT)
    base = values.get("base_model_name_or_path")
    fields.skip("target_modules", "exclude_modules", "modules_to_save", "rank_pattern", "alpha_pattern")
    found = AdapterConfig(
        rank=fields.integer("r", 8),
        alpha=fields.number("lora_alpha", 8),
        by_root=fields.flag("use_rslora", False),
        dora=fields.flag("use_dora", False),
        ranks=_patterns(values, "rank_pattern"),
        alphas=_patterns(values, "alpha_pattern"),
        targets=_targets(values),
        replaced=_names(values.get("modules_to_save") or [], "modules_to_save"),
        base=base if isinstance(base, str) else "",
    )
    fields.finish()
    return found


def _targets(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of `target_modules` that are not among `exclude_modules`; none where either is an expression."""
    targets, excluded = values.get("target_modules"), values.get("exclude_modules") or []
    if not isinstance(targets, list) or not isinstance(excluded, list):
        return ()
    left_out = _names(excluded, "exclude_modules")
    return tuple(
        target
        for target in _names(targets, "target_modules")
        if not any(target == one or target.endswith(f".{one}") for one in left_out)
    )


def _names(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise CheckpointError(f"{_WHERE}: {name} is {shown(value)}", hint="must be a list of names")
    return tuple(value)


def _patterns(values: Mapping[str, Any], name: str) -> dict[re.Pattern[str], float]:
    """Read a field that maps patterns of module names to numbers."""
    value = values.get(name) or {}
    if not isinstance(value, Mapping) or len(value) > _MAX_PATTERNS:
        raise CheckpointError(
            f"{_WHERE}: {name} is {shown(value)}",
            hint=f"must map at most {_MAX_PATTERNS:,} names of modules to numbers",
        )
    found: dict[re.Pattern[str], float] = {}
    for pattern, number in value.items():
        whole = name == "alpha_pattern" or type(number) is int
        if type(number) not in (int, float) or not whole or not (math.isfinite(number) and number > 0):
            raise CheckpointError(f"{_WHERE}: {name} gives {shown(pattern)} the number {shown(number)}", hint=_POSITIVE)
        found[_compiled(pattern, name)] = number
    return found


_POSITIVE = "must be above 0; a rank must be whole"


def _compiled(pattern: str, name: str) -> re.Pattern[str]:
    """Compile the pattern of the end of a name, as peft does.

    One that could take forever is refused: it may have two repetitions, none of a group, and two groups.
    """
    fault = (
        len(pattern) > _MAX_PATTERN
        or re.search(r"\)[*+?{]", pattern)
        or len(_REPEATED.findall(pattern)) > _MAX_REPEATED
        or pattern.count("(") > _MAX_REPEATED
    )
    try:
        re.compile(pattern)  # by itself, so that its parentheses are its own
        whole = re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        fault = True
    if fault:
        raise CheckpointError(
            f"{_WHERE}: {name} has the pattern {shown(pattern)}, which is not supported",
            hint="a name, or the end of one, or a short expression with at most two repetitions and two groups",
        )
    return whole


def _of_pattern(patterns: Mapping[re.Pattern[str], float], module: str, default: float) -> float:
    """The number of the first pattern that a module's name ends with."""
    return next((number for pattern, number in patterns.items() if pattern.match(module)), default)
