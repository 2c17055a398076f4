"""The limits of every family and precision; no other place holds any.

A tolerance is always named, explicit, and relative to the scale of what PyTorch computes. The limits of a precision
follow from what its arithmetic can do. fp32 engines reorder sums, which moves a result by a few units in the last place
per addition, some 100 dB below the signal; 80 dB leaves room for kernels that use fewer, larger blocks, and a single
element may be ten times as far off as all are on average. The lower precisions are limited at about 10 dB below what
the shipped models reach (docs/quantization.md), and by the model's own metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from aigc_export.recipes.budget import Budget
from aigc_runtime.bundle.manifest import Tolerances
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["TOLERANCES", "loosened", "parse_limits", "with_user_limits"]


def _text(sqnr_db: float, *, agreement: float, drop: float) -> Tolerances:
    return Tolerances(
        tensor=Tolerance(min_cosine=0.98, min_sqnr_db=sqnr_db),
        min_token_agreement=agreement,
        min_psnr_db=None,
        max_quality_drop=drop,
    )


def _image(sqnr_db: float, *, psnr_db: float, drop: float) -> Tolerances:
    return Tolerances(
        tensor=Tolerance(min_cosine=0.98, min_sqnr_db=sqnr_db),
        min_token_agreement=None,
        min_psnr_db=psnr_db,
        max_quality_drop=drop,
    )


_FP32 = Tolerance(max_over_rms=1e-3, min_cosine=0.999999, min_sqnr_db=80.0)

TOLERANCES: Mapping[tuple[str, str], Tolerances] = MappingProxyType(
    {
        ("text", "fp32"): Tolerances(
            tensor=_FP32,
            min_token_agreement=1.0,
            min_psnr_db=None,
            max_quality_drop=0.001,
        ),
        ("diffusion", "fp32"): Tolerances(
            tensor=_FP32,
            min_token_agreement=None,
            min_psnr_db=60.0,
            max_quality_drop=0.01,
        ),
        ("gan", "fp32"): Tolerances(
            tensor=_FP32,
            min_token_agreement=None,
            min_psnr_db=70.0,
            max_quality_drop=0.01,
        ),
        ("text", "fp16"): _text(45.0, agreement=0.25, drop=0.001),
        ("diffusion", "fp16"): _image(50.0, psnr_db=60.0, drop=0.02),
        ("gan", "fp16"): _image(60.0, psnr_db=65.0, drop=0.02),
        ("text", "bf16"): _text(30.0, agreement=0.25, drop=0.002),
        ("diffusion", "bf16"): _image(35.0, psnr_db=45.0, drop=0.05),
        ("gan", "bf16"): _image(42.0, psnr_db=48.0, drop=0.05),
        ("text", "int8"): _text(24.0, agreement=0.25, drop=0.003),
        ("diffusion", "int8"): _image(25.0, psnr_db=38.0, drop=0.05),
        ("gan", "int8"): _image(32.0, psnr_db=42.0, drop=0.05),
        ("text", "fp8"): _text(20.0, agreement=0.25, drop=0.01),
        ("diffusion", "fp8"): _image(22.0, psnr_db=35.0, drop=0.15),
        ("gan", "fp8"): _image(26.0, psnr_db=35.0, drop=0.15),
        ("text", "int8-weight"): _text(30.0, agreement=0.25, drop=0.002),
        ("diffusion", "int8-weight"): _image(40.0, psnr_db=50.0, drop=0.02),
        ("gan", "int8-weight"): _image(45.0, psnr_db=50.0, drop=0.02),
        ("text", "int4"): _text(18.0, agreement=0.1, drop=0.01),
        ("diffusion", "int4"): _image(25.0, psnr_db=35.0, drop=0.15),
        ("gan", "int4"): _image(28.0, psnr_db=35.0, drop=0.15),
    }
)
"""(family, precision) -> limits. `max_quality_drop` is relative to the PyTorch model's own metric."""


NOT_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"text": ("min_psnr_db",), "diffusion": ("min_token_agreement",), "gan": ("min_token_agreement",)}
)
"""family -> limits of what it does not make."""

LOOSEST_DB, LOOSEST_DROP = 1.0, 10.0
"""However wide a budget, what is published is not mere noise."""

CASE_HEADROOM = {"psnr_db": 10.0, "loss": 3.0}
"""Room of a single case beyond the budget, which limits an average: 10 dB for images, as much as the limits above leave
below the measured values; a factor of 3 for a relative loss."""


def loosened(tolerances: Tolerances, budgets: Iterable[Budget]) -> Tolerances:
    """Loosen limits for a mix that was searched under budgets: no limit forbids what the user allows.

    The budgets themselves are checked beside these. Where one is looser than the limit of its measure, or nearer to it
    than a single case may lie from the average, the limits give way by as much noise: decibels fall by it, relative
    losses grow with it, as in `budget.allowed_noise`.
    """
    average = case = 1.0
    for budget in budgets:
        if budget.measure == "psnr_db" and tolerances.min_psnr_db is not None:
            noise, headroom = 10 ** ((tolerances.min_psnr_db - budget.limit) / 10), CASE_HEADROOM["psnr_db"]
        elif tolerances.max_quality_drop is not None and (budget.relative or budget.measure == "ppl_increase"):
            noise, headroom = abs(budget.limit) / tolerances.max_quality_drop, CASE_HEADROOM["loss"]
        else:
            continue
        average, case = max(average, noise), max(case, noise * headroom)
    if case == 1.0:
        return tolerances
    slack, tensor = 10 * math.log10(case), tolerances.tensor
    sqnr, psnr = tensor.min_sqnr_db, tolerances.min_psnr_db
    agreement, drop = tolerances.min_token_agreement, tolerances.max_quality_drop
    return Tolerances(
        # A cosine says the same as a ratio of signal to noise, which stays.
        tensor=replace(tensor, min_cosine=None, min_sqnr_db=None if sqnr is None else max(sqnr - slack, LOOSEST_DB)),
        min_token_agreement=None if agreement is None else agreement / case,
        min_psnr_db=None if psnr is None else max(psnr - slack, LOOSEST_DB),
        max_quality_drop=None if drop is None else min(drop * average, LOOSEST_DROP),
    )


def with_user_limits(tolerances: Tolerances, chosen: Mapping[str, float], *, family: str) -> Tolerances:
    """Replace limits by those that the user chose, and mark them as such.

    Args:
        tolerances: of the family and precision.
        chosen: name of a limit -> value.
        family: of the model.

    Raises:
        UnknownNameError: no such limit.
        ConfigError: a limit that the family has not, or that can never fail or never hold.
    """
    known = tolerances.limits()
    for name in chosen:
        if name not in known:
            raise UnknownNameError("limit", name, known)
        if name in NOT_OF.get(family, ()):
            valid = [n for n in known if n not in NOT_OF[family]]
            raise ConfigError(f"the limit {name} means nothing to a {family} model", hint=f"valid: {', '.join(valid)}")
    of_tensors = {name: value for name, value in chosen.items() if name in vars(tolerances.tensor)}
    others = {name: value for name, value in chosen.items() if name not in of_tensors}
    return replace(
        tolerances,
        tensor=replace(tolerances.tensor, **of_tensors),
        set_by_user=tuple(dict.fromkeys((*tolerances.set_by_user, *sorted(chosen)))),
        **others,
    )


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """Read limits as written on a command line.

    >>> parse_limits(["min_sqnr_db=60", "min_cosine=0.9"])
    {'min_sqnr_db': 60.0, 'min_cosine': 0.9}

    Raises:
        ConfigError: not of the form NAME=VALUE, or a name twice.
    """
    limits: dict[str, float] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        try:
            number = float(value)
        except ValueError as err:
            raise ConfigError(f"the limit {text!r} cannot be read", hint="write NAME=VALUE: min_sqnr_db=60") from err
        if name in limits:
            raise ConfigError(f"the limit {name} is given twice", hint="leave one out")
        limits[name] = number
    return limits
