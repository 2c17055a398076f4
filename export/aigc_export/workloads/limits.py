"""Make tolerances: every limit is relative to the scale of what PyTorch computes.

The limits of a precision follow from what its arithmetic can do. fp32 engines reorder sums, which moves a result by a
few units in the last place per addition, some 100 dB below the signal; 80 dB leaves room for kernels that use fewer,
larger blocks, and a single element may be ten times as far off as all are on average. The lower precisions are limited
at about 10 dB below what the shipped models reach (docs/quantization.md), and by the model's own metric. For text in
lower precisions that metric decides, where it was measured: `drop` is how much perplexity may grow, some one and a half
times what a real model showed.
"""

from __future__ import annotations

from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.compare import Tolerance

__all__ = ["FP32", "TEXT_LIMITS", "make_tolerances"]

TEXT_LIMITS = ("max_kl", "min_top1_agreement")
"""Limits on what only language models have, beside the agreement of generated tokens."""

FP32 = Tolerance(max_over_rms=1e-3, min_cosine=0.999999, min_sqnr_db=80.0)
"""Of every tensor in fp32, whatever the model."""


def make_tolerances(
    sqnr_db: float | None,
    *,
    agreement: float | None = None,
    psnr_db: float | None = None,
    drop: float | None = None,
    cosine: float = 0.98,
) -> Tolerances:
    """Make the limits of one precision.

    Args:
        sqnr_db: smallest signal-to-noise ratio of every tensor; None takes `FP32`.
        agreement: smallest share of generated tokens that agree, for text.
        psnr_db: smallest of generated images.
        drop: largest loss in the model's own metric, relative to PyTorch's.
        cosine: smallest of every tensor, beside `sqnr_db`.
    """
    return Tolerances(
        tensor=FP32 if sqnr_db is None else Tolerance(min_cosine=cosine, min_sqnr_db=sqnr_db),
        min_token_agreement=agreement,
        min_psnr_db=psnr_db,
        max_quality_drop=drop,
    )
