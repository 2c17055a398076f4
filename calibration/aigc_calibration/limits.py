"""Find numbers that no low precision can hold, in the inputs and results of a site."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.histogram import HUGE, Histogram
from aigc_calibration.sites import Site
from aigc_runtime.core.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LEAST", "array_problem", "constant_problem", "value_problem"]

LEAST = 1e-30
"""Numbers below have scales, and products of scales, that float32 can hardly hold: what computes with them stays float.
As far below one as mask constants are above."""


def constant_problem(
    model: ir.Model, site: Site, *, largest: float = math.inf, least: float = LEAST, bias: bool = False
) -> str:
    """Say why the weight of a site must stay float; empty if it need not.

    Args:
        model: the float graph.
        site: with or without a weight.
        largest: magnitude that the precision can hold.
        least: magnitude below which all numbers of a weight may lie only if they are zero.
        bias: whether the bias is brought to that precision too.
    """
    for name in (site.weight, site.bias if bias else None):
        constant = None if name is None else model.graph.initializers.get(name)
        if constant is None or constant.const_value is None:
            continue
        own_least = least if name == site.weight else 0.0
        if problem := array_problem(str(name), constant.const_value.numpy(), largest=largest, least=own_least):
            return problem
    return ""


def array_problem(name: str, values: Array, *, largest: float = math.inf, least: float = LEAST) -> str:
    """Say why a constant must stay float, as `constant_problem` does."""
    amax = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(amax):
        return f"{name!r} holds NaN or infinity"
    if amax >= HUGE:
        return f"{name!r} holds a mask constant"
    if amax > largest:
        return f"{name!r} reaches {amax:.3g}, too near the largest number of the format"
    if 0 < amax < least:
        return f"{name!r} reaches {amax:.3g} at most, too near zero for the format"
    return ""


def value_problem(names: Iterable[str], seen: Mapping[str, Histogram], *, least: float = LEAST) -> str:
    """Say why values must stay float; empty if they need not.

    Args:
        names: of the values.
        seen: what they looked like.
        least: magnitude below which all numbers of a value may lie only if they are zero.
    """
    for name in names:
        histogram = seen[name]
        if histogram.huge:
            return f"{name!r} holds a mask constant or infinity"
        if 0 < histogram.amax < least:
            return f"{name!r} reaches {histogram.amax:.3g} at most, too near zero for the format"
    return ""
