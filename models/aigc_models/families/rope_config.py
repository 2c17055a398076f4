"""The configuration of rotary positions, which reads without PyTorch; what is computed by it is in `rope`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from aigc_models.families.layers import require_one_of, require_positive
from aigc_runtime.errors import ConfigError

__all__ = ["SCALINGS", "RopeConfig"]

SCALINGS = ("none", "linear", "llama3", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """How positions become angles.

    Attributes:
        theta: base of the frequencies theta^(-2i/R).
        rotary_size: R, the first numbers of each head, which turn; None: all.
        scaling: how frequencies are changed for contexts longer than the original one: `none`, `linear` (all divided
            by `factor`), `llama3` (slow ones divided), `yarn` (slow ones divided, by a ramp over the dimensions) or
            `longrope` (each divided by its own factor).
        factor: how many times longer the context became.
        original_context: positions of the context before; of all but `none` and `linear`.
        low_freq_factor: of `llama3`: turns in the original context below which a frequency is divided.
        high_freq_factor: of `llama3`: turns above which it stays.
        beta_slow: of `yarn`: turns below which a frequency is divided.
        beta_fast: of `yarn`: turns above which it stays.
        short_factors: of `longrope`: F divisors of texts of at most `original_context` tokens.
        long_factors: of `longrope`: F divisors of longer ones.
        attention_factor: multiplies the cosines and sines; None: what the scaling's paper has.
    """

    theta: float = 10000.0
    rotary_size: int | None = None
    scaling: Literal["none", "linear", "llama3", "yarn", "longrope"] = "none"
    factor: float = 1.0
    original_context: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_slow: float = 1.0
    beta_fast: float = 32.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        require_one_of("RopeConfig", "scaling", self.scaling, SCALINGS)
        require_positive("RopeConfig", rotary_size=self.rotary_size, original_context=self.original_context)
        numbers = {
            "theta": self.theta,
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "beta_slow": self.beta_slow,
            "beta_fast": self.beta_fast,
            "attention_factor": 1.0 if self.attention_factor is None else self.attention_factor,
        }
        for name, value in numbers.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"RopeConfig.{name} is {value}", hint="must be positive")
        if self.rotary_size is not None and self.rotary_size % 2:
            raise ConfigError(f"RopeConfig.rotary_size is {self.rotary_size}", hint="pairs turn: must be even")
        if self.scaling not in ("none", "linear") and self.original_context is None:
            raise ConfigError(
                f"RopeConfig.original_context is missing with scaling {self.scaling!r}",
                hint="it says which context the factors are relative to",
            )
        if self.scaling == "longrope" and self.original_context == 1:
            raise ConfigError("RopeConfig.original_context is 1", hint="longrope takes its logarithm: at least 2")
        if self.scaling == "yarn" and self.theta <= 1.0:
            raise ConfigError(f"RopeConfig.theta is {self.theta}", hint="yarn takes its logarithm: must be above 1")
        if self.scaling == "llama3" and self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                f"RopeConfig.low_freq_factor is {self.low_freq_factor}, high_freq_factor {self.high_freq_factor}",
                hint="the first must be below the second",
            )
        factors = (*self.short_factors, *self.long_factors)
        if (self.scaling == "longrope") != bool(factors) or len(self.short_factors) != len(self.long_factors):
            raise ConfigError(
                f"RopeConfig has {len(self.short_factors)} short and {len(self.long_factors)} long factors with "
                f"scaling {self.scaling!r}",
                hint="longrope needs one of each for every frequency, and no other scaling has any",
            )
        if factors and not (math.isfinite(sum(factors)) and min(factors) > 0):
            raise ConfigError("RopeConfig.short_factors or long_factors holds what is not positive")

    def check_head(self, head_size: int) -> None:
        """Refuse a head that cannot be turned so.

        Raises:
            ConfigError: an odd head, a rotary_size beyond it, or factors for another number of frequencies.
        """
        size = head_size if self.rotary_size is None else self.rotary_size
        if size > head_size:
            raise ConfigError(f"RopeConfig.rotary_size is {size}, a head has {head_size} numbers")
        if size % 2:
            raise ConfigError(f"LMConfig.head_dim is {head_size}", hint="rotary positions need an even head_dim")
        if self.long_factors and len(self.long_factors) != size // 2:
            raise ConfigError(
                f"RopeConfig.long_factors has {len(self.long_factors)} factors, expected {size // 2}",
                hint="one for each pair of numbers that turns",
            )
