"""Make the program of a language model that was brought in, with the options of the export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.program import Program
from aigc_models.programs import lm_program
from aigc_models.text_assets import TextAssets
from aigc_models.weights.checkpoint import Checkpoint
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["OPTIONS", "check_options", "language_program"]

OPTIONS = ("cache", "separate_prefill", "context_length", "lora")
"""Of the export, that a language model takes."""


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that a language model does not have.

    Raises:
        UnknownNameError: names it.
    """
    for option in options:
        if option not in OPTIONS:
            raise UnknownNameError("export option of a language model", option, OPTIONS)


def language_program(
    module: TransformerLM,
    *,
    text: TextAssets,
    checkpoint: Checkpoint,
    name: str,
    source: str,
    options: Mapping[str, Any],
    notes: Sequence[str],
) -> Program:
    """Make the program.

    Args:
        module: with its weights.
        text: how it reads and writes text.
        checkpoint: where its weights came from.
        name: of the program.
        source: what it came from, as the user named it.
        options: of the export, checked.
        notes: for the user, before those about text.

    Raises:
        ConfigError: a context that the model does not have.
        BundleError: the tokenizer is damaged, or has more tokens than the model.
    """
    if (context_length := options.get("context_length")) is not None:
        module.config = _shortened(module.config, context_length)
    program = lm_program(
        module,
        text=text,
        cache=options.get("cache"),
        separate_prefill=options.get("separate_prefill", False),
        name=name,
        checkpoint=checkpoint,
    )
    return replace(program, source=source, notes=(*notes, *text.notes))


def _shortened(config: LMConfig, context_length: int) -> LMConfig:
    if not 2 <= context_length <= config.context_length:
        raise ConfigError(
            f"--context-length is {context_length:,}, the model has {config.context_length:,} positions",
            hint=f"choose 2 to {config.context_length:,}",
        )
    return replace(config, context_length=context_length)
