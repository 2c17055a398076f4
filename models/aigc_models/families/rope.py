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
from typing import NamedTuple

import torch
from torch import Tensor

from aigc_models.families.rope_config import SCALINGS, RopeConfig

__all__ = ["SCALINGS", "RopeConfig", "Rotation", "rotary_frequencies", "rotation_at"]


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
