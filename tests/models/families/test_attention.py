"""Attention with a window, a soft cap and a scale is that of PyTorch's own attention with the same mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aigc_models.families.attention import RMSNorm, soft_cap
from aigc_models.families.lm import Block, TransformerLM
from aigc_models.families.lm_config import LMConfig

CONFIG = LMConfig(vocab_size=20, context_length=32, d_model=24, n_layers=1, n_heads=2, d_ff=16, window=4)


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 0.7])
def test_a_window_hides_what_is_before_it(scale: float | None) -> None:
    torch.manual_seed(0)
    config = LMConfig(**{**CONFIG.__dict__, "attention_scale": scale})
    model = TransformerLM(config).eval()
    x = torch.randn(1, 9, 24)
    block = model.layers[0]
    assert isinstance(block, Block)
    attention = block.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (torch.unflatten(p(x), -1, (2, 12)).transpose(1, 2) for p in projections)
    i, j = torch.arange(9)[:, None], torch.arange(9)[None]
    mask = (j <= i) & (i - j < 4)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    bias = torch.where(mask, 0.0, -torch.inf)[None, None]
    found, _ = attention(x, None, bias, None)
    torch.testing.assert_close(found, attention.o_proj(expected.transpose(1, 2).flatten(2)))
    ids = torch.randint(20, (1, 9))
    other = ids.clone()
    other[0, 4] = (ids[0, 4] + 1) % 20
    before, after = model(ids).logits, model(other).logits
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:8], after[:, 4:8])
    torch.testing.assert_close(before[:, 8], after[:, 8])


def test_a_soft_cap_bounds_and_is_the_papers() -> None:
    x = torch.linspace(-200, 200, 101)
    assert float(soft_cap(x, 30.0).abs().max()) <= 30.0
    torch.testing.assert_close(soft_cap(x, 30.0), 30 * torch.tanh(x / 30))
    assert soft_cap(x, None) is x


def test_the_norm_is_torchs() -> None:
    x = torch.randn(3, 8)
    torch.testing.assert_close(RMSNorm(8, 1e-6)(x), F.rms_norm(x, (8,), eps=1e-6))
