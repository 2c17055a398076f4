"""AWQ: protect the channels that matter by making them larger before they are rounded.

Lin et al. 2024, "AWQ: Activation-aware weight quantization", equations 4 and 5: s = (mean |x|)^alpha per input channel,
alpha searched for the least error of the product. The division is folded like SmoothQuant's (`smooth`); the error is
taken from second moments (`hessian.product_error`), so that no sample is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from aigc_calibration.hessian import product_error
from aigc_runtime.core.tensors import Array

__all__ = ["awq_scales"]

ALPHAS = tuple(i / 20 for i in range(21))

Rounding = Callable[[Array], Array]
"""Weight -> weight on the grid, dequantized."""


def awq_scales(weights: Sequence[Array], hessian: Array, round_weight: Rounding) -> tuple[Array, float]:
    """Compute the scales of a group of matrices [in, out] that read the same value.

    Args:
        weights: all of them.
        hessian: [in, in], second moments of the value.
        round_weight: how they will be quantized.

    Returns:
        s [in] float32 with geometric mean 1, and the alpha that it was made with; alpha 0 changes nothing.
    """
    magnitude = np.sqrt(np.maximum(np.diag(hessian), 1e-12))  # root mean square in place of the mean: H has no other

    def scales(alpha: float) -> Array:
        s = np.clip(magnitude**alpha, 1e-4, 1e4)
        result: Array = (s / np.exp(np.log(s).mean())).astype(np.float32)
        return result

    def error(alpha: float) -> float:
        s = scales(alpha)[:, None]
        return sum(product_error(w, round_weight(w * s) / s, hessian) for w in weights)

    best = min(ALPHAS, key=error)
    return scales(best), best
