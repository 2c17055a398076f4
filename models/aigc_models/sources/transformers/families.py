"""The families that are known, and which of them a config.json is of."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.sources.transformers.family import Family
from aigc_models.sources.transformers.fields import Fields
from aigc_models.sources.transformers.gemma import GEMMA2, GEMMA3
from aigc_models.sources.transformers.gpt2 import GPT2
from aigc_models.sources.transformers.gpt_neox import GPT_NEOX
from aigc_models.sources.transformers.granite import GRANITE
from aigc_models.sources.transformers.llama import LLAMA, MISTRAL
from aigc_models.sources.transformers.olmo2 import OLMO2
from aigc_models.sources.transformers.phi3 import PHI3
from aigc_models.sources.transformers.qwen import QWEN2, QWEN3
from aigc_models.sources.transformers.smollm3 import SMOLLM3
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown

__all__ = [
    "FAMILIES",
    "UnknownArchitectureError",
    "find_family",
    "is_known",
    "is_transformers_config",
    "read_config",
]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": LLAMA,
        "mistral": MISTRAL,
        "qwen2": QWEN2,
        "qwen3": QWEN3,
        "smollm3": SMOLLM3,
        "gpt2": GPT2,
        "gpt_neox": GPT_NEOX,
        "phi3": PHI3,
        "gemma2": GEMMA2,
        "gemma3_text": GEMMA3,
        "olmo2": OLMO2,
        "granite": GRANITE,
    }
)
"""`model_type` of config.json -> family."""


class UnknownArchitectureError(CheckpointError):
    """A config.json is of no known architecture.

    Attributes:
        model_type: what it says; empty where it says nothing.
        known: what is known.
        nearest: the known one that is most like it; empty where none is.
    """

    def __init__(self, message: str, *, model_type: str, hint: str = "") -> None:
        near = difflib.get_close_matches(model_type, FAMILIES, n=1, cutoff=0.5)
        self.model_type, self.known, self.nearest = model_type, tuple(FAMILIES), near[0] if near else ""
        lines = [
            f"known: {', '.join(FAMILIES)}" + (f"; the nearest is {self.nearest!r}" if near else ""),
            "bring it in by a function of your own that makes the module: aigc-export export file.py:function",
        ]
        super().__init__(message, hint="\n".join(filter(None, (hint, *lines))))


def is_transformers_config(config: Mapping[str, Any] | None) -> bool:
    """Whether a config.json is one of transformers': it names a kind of model, and is neither ours nor diffusers'."""
    if config is None or "family" in config or "_class_name" in config:
        return False
    return "model_type" in config or "architectures" in config


def is_known(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a family that is known here."""
    if not is_transformers_config(config):
        return False
    try:
        find_family(config)
    except UnknownArchitectureError:
        return False
    except CheckpointError:
        return True  # a known family's model of another kind, which loading refuses
    return True


def find_family(config: Mapping[str, Any]) -> tuple[str, Family]:
    """Find out of which family a config.json is: by its `model_type`, or else by its `architectures`.

    Raises:
        UnknownArchitectureError: of none that is known; lists those, the nearest, and the way in by Python.
        CheckpointError: its architecture is no language model's.
    """
    named = config.get("architectures")
    classes = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    kind = config.get("model_type")
    if kind is None:
        kind = next((k for k, known in FAMILIES.items() if {known.architecture, known.base}.intersection(classes)), "")
    if not isinstance(kind, str) or kind not in FAMILIES:
        remote, named = config.get("auto_map"), kind or ", ".join(classes)
        raise UnknownArchitectureError(
            f"config.json is of the architecture {shown(named)}, which is not known"
            if named
            else "config.json names no architecture: it has neither model_type nor architectures",
            model_type=kind if isinstance(kind, str) else "",
            hint="it names code of its own (auto_map), which is never run: code runs only where you name it"
            if remote
            else "",
        )
    family = FAMILIES[kind]
    if classes and not {family.architecture, family.base}.intersection(classes):
        raise CheckpointError(
            f"config.json is of {', '.join(classes)}, which is not supported",
            hint=f"of {kind!r}, {family.architecture} is: take the folder of the language model itself",
        )
    return kind, family


def read_config(config: Mapping[str, Any]) -> LMConfig:
    """Read a config.json; every field must be known.

    Raises:
        CheckpointError: an architecture, a field or a value that is not supported; names it.
        ConfigError: sizes that make no model.
    """
    _, family = find_family(config)
    fields = Fields(config)
    fields.require("is_causal", True)
    read = family.config(fields)
    fields.finish()
    return read
