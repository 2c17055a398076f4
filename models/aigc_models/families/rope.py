"""Rotary positions: pairs of a head's numbers turn by an angle that grows with the position.

Shapes: B batch, S new tokens, E head width, R of it that turns, F = R / 2 frequencies.

The angles are computed from the positions in float32, as transformers computes them: a table of a long context would
take more memory than a small model, and one in higher precision would differ from what a model was trained with.

References:
    Su et al. 2021, "RoFormer": rotary position embedding eq. 34.
    Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation": eq. 4.
    Grattafiori et al. 2024, "The Llama 3 Herd of Models": section 3.4.2; the formula is that of the published code.
    Peng et al. 2023, "YaRN": eqs. 20 to 24.
    Ding et al. 2024, "LongRoPE": section 3; the attention factor is that of Phi-3's published code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from aigc_models.families.layers import require_one_of, require_positive
from aigc_runtime.errors import ConfigError

__all__ = ["SCALINGS", "RopeConfig", "Rotation", "rotary_frequencies", "rotation_at"]

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


class Rotation(NamedTuple):
    """Rotary factors at the positions of the new tokens.

    Attributes:
        cos: [B, 1, S, R].
        sin: [B, 1, S, R]; the first half is negated, which saves a Neg per use.
    """

    cos: Tensor
    sin: Tensor

    def apply(self, x_BHSE: Tensor) -> Tensor:
        """Rotate pairs (x_i, x_{i + R/2}) (Su 2021, eq. 34, with the halves interleaved as in Llama)."""
        size = self.cos.shape[-1]
        if size == x_BHSE.shape[-1]:
            return self._turn(x_BHSE)
        return torch.cat([self._turn(x_BHSE[..., :size]), x_BHSE[..., size:]], dim=-1)

    def _turn(self, x_BHSR: Tensor) -> Tensor:
        first, second = x_BHSR.chunk(2, dim=-1)
        return x_BHSR * self.cos + torch.cat([second, first], dim=-1) * self.sin


def rotary_frequencies(rope: RopeConfig, head_size: int) -> Tensor:
    """Compute the angle of one position, [F] float32; of `longrope` [2, F]: of short texts, then of long ones."""
    size = head_size if rope.rotary_size is None else rope.rotary_size
    exponent = torch.arange(0, size, 2, dtype=torch.float32) / size
    plain: Tensor = 1.0 / (rope.theta**exponent)
    if rope.scaling == "linear":
        return plain / rope.factor
    if rope.scaling == "llama3":
        return _llama3(rope, plain)
    if rope.scaling == "yarn":
        return _yarn(rope, exponent, size)
    if rope.scaling == "longrope":
        factors = torch.tensor([rope.short_factors, rope.long_factors], dtype=torch.float32)
        longrope: Tensor = 1.0 / (factors * rope.theta**exponent)
        return longrope
    return plain


def _llama3(rope: RopeConfig, plain: Tensor) -> Tensor:
    """Divide frequencies of few turns in the original context, none of many, and those between by degrees."""
    assert rope.original_context is not None
    wavelength = 2 * math.pi / plain
    turns = rope.original_context / wavelength
    share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (1 - share) * plain / rope.factor + share * plain
    slow = wavelength > rope.original_context / rope.low_freq_factor
    fast = wavelength < rope.original_context / rope.high_freq_factor
    return torch.where(slow, plain / rope.factor, torch.where(fast, plain, between))


def _yarn(rope: RopeConfig, exponent: Tensor, size: int) -> Tensor:
    """Divide the frequencies by `factor` beyond a dimension, and by degrees before (Peng 2023, eqs. 20 to 23)."""
    assert rope.original_context is not None

    def dimension(turns: float) -> float:
        assert rope.original_context is not None
        return size * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension(rope.beta_fast)), 0)
    high = float(min(math.ceil(dimension(rope.beta_slow)), size - 1))
    if low == high:
        high += 0.001
    ramp = ((torch.arange(size // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    powers = rope.theta**exponent
    yarn: Tensor = 1.0 / (rope.factor * powers) * ramp + 1.0 / powers * (1 - ramp)
    return yarn


def attention_factor(rope: RopeConfig) -> float:
    """Return what multiplies cosines and sines: Peng 2023, eq. 22's temperature, or Phi-3's for `longrope`."""
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1.0:
        return 1.0
    if rope.scaling == "yarn":
        return 0.1 * math.log(rope.factor) + 1.0
    if rope.scaling == "longrope":
        assert rope.original_context is not None
        return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_context))
    return 1.0


def rotation_at(rope: RopeConfig, frequencies: Tensor, position_BS: Tensor) -> Rotation:
    """Make the rotary factors of positions.

    Args:
        rope: its configuration.
        frequencies: of `rotary_frequencies`.
        position_BS: [B, S] int64. Of `longrope`, each row's last one says whether its text is a long one.
    """
    if frequencies.dim() == 2:
        assert rope.original_context is not None
        is_long = position_BS.amax(dim=1).view(-1, 1, 1) >= rope.original_context
        frequencies = torch.where(is_long, frequencies[1], frequencies[0])
    angle = position_BS.unsqueeze(-1).float() * frequencies
    cos, sin = angle.cos(), angle.sin()
    scale = attention_factor(rope)
    if scale != 1.0:
        cos, sin = cos * scale, sin * scale
    # [B, 1, S, R]: a head's two halves turn by the same angles
    return Rotation(torch.cat([cos, cos], dim=-1).unsqueeze(1), torch.cat([-sin, sin], dim=-1).unsqueeze(1))
