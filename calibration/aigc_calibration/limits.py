"""Numbers that no low precision can hold, in the constants of a site."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.histogram import HUGE
from aigc_calibration.sites import Site

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["constant_problem"]


def constant_problem(model: ir.Model, site: Site, *, largest: float = math.inf, bias: bool = False) -> str:
    """Why the weight of a site has to stay float; empty if it need not.

    Args:
        model: the float graph.
        site: with or without a weight.
        largest: magnitude that the precision can hold.
        bias: whether the bias is brought to that precision too.
    """
    for name in (site.weight, site.bias if bias else None):
        constant = None if name is None else model.graph.initializers.get(name)
        if constant is None or constant.const_value is None:
            continue
        amax = float(np.abs(constant.const_value.numpy()).max(initial=0.0))
        if not math.isfinite(amax):
            return f"{name!r} holds NaN or infinity"
        if amax >= HUGE:
            return f"{name!r} holds a mask constant"
        if amax > largest:
            return f"{name!r} reaches {amax:.3g}, too near the largest number of the format"
    return ""
