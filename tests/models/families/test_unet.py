from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf, softmax
from torch import Tensor, nn

from aigc_models.families.unet import UNet, UNetConfig, digits_unet_config
from aigc_models.families.unet_blocks import GEGLU, Attention, Downsample, ResnetBlock, SelfAttention, Upsample
from aigc_runtime.errors import ConfigError, FeedError

EXACT = 1e-12  # float64, short sums
FLOAT = 1e-6  # float32, short sums of numbers near one
ANGLE = 2e-4  # float32: at t = 1000 one ulp of a frequency is 6e-5 of an angle

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
CLASSES: dict[str, Any] = {**SMALL, "num_class_embeds": 5, "null_class": 4}
CROSS: dict[str, Any] = {
    **SMALL,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": 4,
    "cross_attention_dim": 6,
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def build(fields: dict[str, Any], **changes: Any) -> UNet:
    return UNet(UNetConfig(**{**fields, **changes})).double().eval()


def sample(batch: int = 2, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn(batch, 2, height, width, dtype=torch.float64)


def group_norm(x: np.ndarray, groups: int, eps: float) -> np.ndarray:
    """Wu & He 2018, eq. 1, at scale one and shift zero."""
    g = x.reshape(len(x), groups, -1)
    normalized: np.ndarray = (g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + eps)
    return normalized.reshape(x.shape)


def silu(x: np.ndarray) -> np.ndarray:
    gated: np.ndarray = x / (1 + np.exp(-x))
    return gated


# --- parts


@pytest.mark.parametrize("cosine_first", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_the_time_embedding_is_the_papers(cosine_first: bool, shift: int) -> None:
    # Vaswani 2017, section 3.5, with fractional positions
    model = UNet(UNetConfig(**SMALL, flip_sin_to_cos=cosine_first, freq_shift=shift))
    t = np.array([0.0, 0.5, 1.0, 123.75, 999.0], dtype=np.float32)
    seen: list[Tensor] = []
    model.time_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(torch.zeros(5, 2, 8, 8), torch.from_numpy(t))
    angle = t[:, None].astype(np.float64) / 10000.0 ** (np.arange(4) / (4 - shift))
    parts = [np.cos(angle), np.sin(angle)] if cosine_first else [np.sin(angle), np.cos(angle)]
    np.testing.assert_allclose(seen[0].numpy(), np.concatenate(parts, axis=1), rtol=0, atol=ANGLE)


def test_fractional_steps_are_told_apart() -> None:
    model, x = build(SMALL), sample(1)
    with torch.no_grad():
        first, between = (model(x, torch.tensor([t])) for t in (500.0, 500.5))
    assert (first - between).abs().max() > 1e-6


@pytest.mark.parametrize(("n_in", "n_out"), [(8, 8), (8, 12)])
def test_the_residual_block(n_in: int, n_out: int) -> None:
    block = ResnetBlock(n_in, n_out, time_size=5, groups=4, eps=1e-5, dropout=0.3).double().eval()
    x, time = torch.randn(2, n_in, 6, 4, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    assert block.time_emb_proj is not None
    with torch.no_grad():
        h = block.conv1(torch.from_numpy(silu(group_norm(x.numpy(), 4, 1e-5))))
        projected = silu(time.numpy()) @ block.time_emb_proj.weight.numpy().T + block.time_emb_proj.bias.numpy()
        h = h + torch.from_numpy(projected)[:, :, None, None]
        h = block.conv2(torch.from_numpy(silu(group_norm(h.numpy(), 4, 1e-5))))
        assert (block.conv_shortcut is None) == (n_in == n_out)
        expected = h + (x if block.conv_shortcut is None else block.conv_shortcut(x))
        torch.testing.assert_close(block(x, time), expected, rtol=EXACT, atol=EXACT)


def test_attention_is_eq_1() -> None:
    attention = Attention(8, heads=2, context=6, bias=False).double()
    x, context = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(3, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        q, k, v = (
            linear(h).numpy().reshape(3, -1, 2, 4)
            for linear, h in ((attention.to_q, x), (attention.to_k, context), (attention.to_v, context))
        )
        weights = softmax(np.einsum("bqne,bkne->bnqk", q, k) / np.sqrt(4), axis=-1)
        mixed = np.einsum("bnqk,bkne->bqne", weights, v).reshape(3, 5, 8)
        expected = attention.to_out[0](torch.from_numpy(mixed))
        torch.testing.assert_close(attention(x, context), expected, rtol=EXACT, atol=EXACT)


def test_self_attention_over_an_image_is_torchs_over_its_positions() -> None:
    ours = SelfAttention(8, heads=2, groups=4, eps=1e-5).double()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.to_q.weight, ours.to_k.weight, ours.to_v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.to_q.bias, ours.to_k.bias, ours.to_v.bias]))
        theirs.out_proj.load_state_dict(ours.to_out[0].state_dict())
        h = torch.from_numpy(group_norm(x.numpy(), 4, 1e-5).reshape(2, 8, 15).transpose(0, 2, 1).copy())
        attended = theirs(h, h, h, need_weights=False)[0]
        expected = x + attended.transpose(1, 2).reshape(2, 8, 3, 5)
        torch.testing.assert_close(ours(x), expected, rtol=EXACT, atol=EXACT)


def test_geglu() -> None:
    layer = GEGLU(3, 4).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        value, gate = np.split(layer.proj(x).numpy(), 2, axis=-1)
        expected = value * gate * 0.5 * (1 + erf(gate / np.sqrt(2)))  # the exact Gaussian form, no tanh
        np.testing.assert_allclose(layer(x).numpy(), expected, rtol=EXACT, atol=EXACT)


def test_doubling_repeats_every_pixel() -> None:
    layer, x = Upsample(2).double(), sample(1, 2, 3)
    repeated = torch.from_numpy(x.numpy().repeat(2, axis=2).repeat(2, axis=3))
    torch.testing.assert_close(layer(x), layer.conv(repeated), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(("padding", "before"), [(1, 1), (0, 0)])
def test_halving_pads_both_ends_or_the_far_one(padding: int, before: int) -> None:
    layer, x = Downsample(2, padding=padding).double(), sample(1, 6, 4)
    padded = torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (before, 1), (before, 1)]))
    assert layer.conv.bias is not None
    with torch.no_grad():
        windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)  # [1, 2, 3, 2, 3, 3]
        expected = torch.einsum("bihwyx,oiyx->bohw", windows, layer.conv.weight) + layer.conv.bias.view(1, -1, 1, 1)
        actual = layer(x)
    assert actual.shape == (1, 2, 3, 2)
    torch.testing.assert_close(actual, expected, rtol=EXACT, atol=EXACT)


# --- the whole model


@pytest.mark.parametrize(("height", "width"), [(8, 8), (2, 2), (6, 10), (16, 4)])
def test_sides_may_be_any_multiple(height: int, width: int) -> None:
    assert build(SMALL)(sample(3, height, width), torch.zeros(3)).shape == (3, 3, height, width)


@pytest.mark.parametrize(("height", "width"), [(7, 8), (8, 9)])
def test_a_side_that_cannot_be_halved(height: int, width: int) -> None:
    message = rf"sample is {height} high and {width} wide\nboth sides must be multiples of 2"
    with pytest.raises(FeedError, match=message):
        build(SMALL)(sample(1, height, width), torch.zeros(1))


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model, x, t = build(CLASSES), sample(4), torch.tensor([3.0, 40.5, 500.0, 999.0])
    labels = torch.tensor([0, 1, 2, 4])
    with torch.no_grad():
        together = model(x, t, labels)
        alone = torch.cat([model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=EXACT, atol=EXACT)


def test_every_class_gives_another_output() -> None:
    model, x = build(CLASSES), sample(1).expand(5, -1, -1, -1)
    with torch.no_grad():
        out = model(x, torch.full((5,), 100.0), torch.arange(5))
    distances = (out[:, None] - out[None]).abs().amax(dim=(2, 3, 4))
    assert (distances + torch.eye(5) > 1e-4).all()


def test_a_context_is_a_set_of_tokens() -> None:
    # Attention over a context without positions: the order of its tokens and their repetition do not matter.
    model, x, t = build(CROSS), sample(), torch.tensor([10.0, 700.0])
    context = torch.randn(2, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x, t, None, context)
        torch.testing.assert_close(model(x, t, None, context.flip(1)), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(x, t, None, context.repeat(1, 3, 1)), expected, rtol=1e-10, atol=1e-10)
        assert (model(x, t, None, context + 1) - expected).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("fields", "conditions", "message"),
    [
        (CLASSES, {}, "class_labels is missing\nthis model was built with num_class_embeds = 5: pass class_labels"),
        (
            SMALL,
            {"class_labels": torch.tensor([1])},
            "class_labels was given\nthis model was built without num_class_embeds: leave class_labels out",
        ),
        (CROSS, {}, "encoder_hidden_states is missing\nthis model was built with cross_attention_dim = 6"),
        (
            SMALL,
            {"encoder_hidden_states": torch.zeros(1, 2, 6)},
            "encoder_hidden_states was given\nthis model was built without cross_attention_dim",
        ),
    ],
)
def test_conditions_that_the_model_was_not_built_for(
    fields: dict[str, Any], conditions: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(fields)(sample(1), torch.zeros(1), **conditions)


def test_dropout_is_for_training_only() -> None:
    model, x, t = build(SMALL, dropout=0.5), sample(), torch.zeros(2)
    with torch.no_grad():
        assert torch.equal(model(x, t), model(x, t))
        model.train()
        assert not torch.equal(model(x, t), model(x, t))


@pytest.mark.parametrize("fields", [CLASSES, CROSS], ids=["classes", "cross"])
def test_every_tensor_learns(fields: dict[str, Any]) -> None:
    model, x, t = build(fields), sample(5), torch.linspace(0, 999, 5)
    labels = torch.arange(5) if "num_class_embeds" in fields else None
    context = torch.randn(5, 3, 6, dtype=torch.float64) if "cross_attention_dim" in fields else None
    (model(x, t, labels, context) - sample(5).sum(1, keepdim=True)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("to_k.bias"):  # shifts all scores of a query alike, which softmax does not see
            assert parameter.grad.abs().max() > 0, name


def test_a_fresh_digits_model_neither_explodes_nor_falls_silent() -> None:
    model = UNet(digits_unet_config()).eval()
    with torch.no_grad():
        out = model(torch.randn(16, 1, 16, 16), torch.linspace(0, 999, 16), torch.arange(16) % 11)
    assert 0.05 < out.std().item() < 2.0
    assert torch.isfinite(out).all()


def test_half_precision_weights_take_half_precision_samples() -> None:
    reference = UNet(UNetConfig(**SMALL)).eval()
    x, t = torch.randn(1, 2, 8, 8), torch.tensor([500.5])
    with torch.no_grad():
        expected = reference(x, t)
        actual = reference.bfloat16()(x.bfloat16(), t)
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).abs().max() <= 2**-5 * expected.abs().max()  # bfloat16 keeps 8 bits
    assert (actual.float() - expected).abs().max() > FLOAT
