"""Make the configuration of a quantization from what the author of an architecture knows about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from aigc_calibration.config import QuantConfig
from aigc_calibration.smooth import Source
from aigc_models.program import QuantHints

__all__ = ["with_hints"]

EIGHT_BIT_INTEGERS = ("int8", "auto")
"""Precisions of integer activations; a search starts from them."""


def with_hints(config: QuantConfig, hints: QuantHints, precision: str) -> QuantConfig:
    """Fill in what a configuration leaves open: a choice of the user's own stands.

    Args:
        config: of the recipe.
        hints: of the part that is quantized.
        precision: as in a recipe.
    """
    sensitive = hints.sensitive
    if precision in EIGHT_BIT_INTEGERS and hints.sensitive_int8 is not None:
        sensitive = hints.sensitive_int8
    return replace(
        config,
        sensitive=config.sensitive or sensitive,
        wide=config.wide or hints.wide,
        smooth=config.smooth or cast("Mapping[Source, float]", hints.smooth),  # checked by the configuration
    )
