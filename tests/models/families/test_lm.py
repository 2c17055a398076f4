"""The language model against torch's own modules, against itself without a cache, and in its bad inputs."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from aigc_models.families.lm import TransformerLM, next_token_loss
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.rope import RopeConfig, rotary_frequencies, rotation_at
from aigc_runtime.errors import ConfigError

FLOAT_ACCURACY = 2e-5

TINY = LMConfig(vocab_size=50, context_length=40, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48)
CLASSIC = LMConfig(
    vocab_size=50,
    context_length=40,
    d_model=32,
    n_layers=3,
    n_heads=4,
    d_ff=64,
    norm="layernorm",
    norm_position="post",
    activation="relu",
    position="sinusoidal",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    embedding_scale=math.sqrt(32),
)
VARIANTS = {
    "gqa": TINY,
    "mha": dataclasses.replace(TINY, n_kv_heads=None),
    "mqa": dataclasses.replace(TINY, n_kv_heads=1),
    "qk_norm": dataclasses.replace(TINY, qk_norm="head", head_dim=12),
    "learned": dataclasses.replace(TINY, position="learned", norm="layernorm", activation="gelu", qkv_bias=True),
    "classic": CLASSIC,
    "window": dataclasses.replace(TINY, window=4),
    "gemma": dataclasses.replace(
        TINY,
        norm_position="sandwich",
        activation="geglu_tanh",
        window=5,
        window_layers=(0,),
        window_rope=RopeConfig(theta=100.0),
        attention_scale=0.3,
        attention_soft_cap=2.0,
        logit_soft_cap=3.0,
        embedding_scale=2.0,
        tie_embeddings=True,
    ),
    "olmo": dataclasses.replace(TINY, norm_position="output", qk_norm="width"),
    "neox": dataclasses.replace(
        TINY,
        parallel=True,
        norm="layernorm",
        activation="gelu",
        rope=RopeConfig(rotary_size=4),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_bias=True,
    ),
    "granite": dataclasses.replace(TINY, residual_scale=0.2, logit_scale=0.5, unrotated_layers=(1,)),
    "longrope": dataclasses.replace(
        TINY,
        rope=RopeConfig(
            scaling="longrope", factor=4.0, original_context=64, short_factors=(1.0,) * 4, long_factors=(2.0,) * 4
        ),
    ),
    "tied": dataclasses.replace(TINY, tie_embeddings=True, activation="gelu_tanh"),
}


def build(config: LMConfig, seed: int = 0) -> TransformerLM:
    torch.manual_seed(seed)
    model = TransformerLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # larger than the initialization, so that mistakes show
            p.add_(torch.randn_like(p) * 0.1)
    return model


@pytest.fixture(params=list(VARIANTS))
def model(request: pytest.FixtureRequest) -> TransformerLM:
    return build(VARIANTS[request.param])


def empty(model: TransformerLM, batch: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    c = model.config
    return [(torch.zeros(batch, c.kv_heads, size, c.head_size),) * 2 for _ in range(c.n_layers)]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).abs().max()) <= FLOAT_ACCURACY * max(1.0, float(b.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(7, 5), (1, 1, 10), (11, 1)])
def test_a_growing_cache_changes_nothing(model: TransformerLM, cuts: tuple[int, ...]) -> None:
    ids = torch.randint(50, (2, sum(cuts)))
    parts, past = [], empty(model, 2, 0)
    for start, size in zip(itertools.accumulate((0, *cuts)), cuts, strict=False):
        out = model(ids[:, start : start + size], past=past)
        parts.append(out.logits)
        past = out.present
        assert past[0][0].shape[2] == start + size
    assert close(torch.cat(parts, dim=1), model(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(7, 5), (1, 1, 10)])
def test_a_buffer_cache_changes_nothing_whatever_it_held(model: TransformerLM, cuts: tuple[int, ...]) -> None:
    ids = torch.randint(50, (2, sum(cuts)))
    past = [(torch.full_like(k, 1e3), torch.full_like(v, -1e3)) for k, v in empty(model, 2, 20)]
    parts = []
    for start, size in zip(itertools.accumulate((0, *cuts)), cuts, strict=False):
        out = model(ids[:, start : start + size], past=past, past_length=torch.tensor([start]))
        parts.append(out.logits)
        past = out.present
        assert past[0][0].shape[2] == 20
    assert close(torch.cat(parts, dim=1), model(ids).logits)


@torch.no_grad()
def test_logits_that_are_kept_are_those_of_the_whole(model: TransformerLM) -> None:
    ids = torch.randint(50, (3, 11))
    whole = model(ids).logits
    head = []
    handle = model.lm_head.register_forward_hook(lambda _module, inputs, _output: head.append(inputs[0].shape[1]))
    for places in ([10], [0], [0, 4, 10], [7, 7, 2], list(range(11))):
        kept = model(ids, logits_to_keep=torch.tensor(places)).logits
        assert kept.shape[:2] == (3, len(places))
        assert close(kept, whole[:, places])
    handle.remove()
    assert head == [1, 1, 3, 3, 11]  # the head multiplies no other row


@torch.no_grad()
def test_left_padding_changes_nothing(model: TransformerLM) -> None:
    rows = [torch.randint(50, (n,)) for n in (12, 5, 1)]
    pad = torch.tensor([12 - len(r) for r in rows])
    ids = torch.stack([torch.cat([torch.full((int(p),), 9), r]) for p, r in zip(pad, rows, strict=True)])
    out = model(ids, pad_length=pad)
    assert bool(out.logits.isfinite().all())
    cached = model(ids[:, :8], pad_length=pad, past=empty(model, 3, 0))
    later = model(ids[:, 8:], pad_length=pad, past=cached.present)
    buffered = model(ids, pad_length=pad, past=empty(model, 3, 16), past_length=torch.tensor([0]))
    for i, row in enumerate(rows):
        alone = model(row[None]).logits[0]
        assert close(out.logits[i, int(pad[i]) :], alone)
        assert close(torch.cat([cached.logits[i], later.logits[i]])[int(pad[i]) :], alone)
        assert close(buffered.logits[i, int(pad[i]) :], alone)
    assert not close(model(ids).logits[1, int(pad[1]) :], model(rows[1][None]).logits[0])


@torch.no_grad()
def test_the_future_is_not_seen(model: TransformerLM) -> None:
    ids = torch.randint(50, (1, 10))
    other = ids.clone()
    other[0, 6] = (other[0, 6] + 1) % 50
    a, b = model(ids).logits, model(other).logits
    assert torch.equal(a[:, :6], b[:, :6])
    assert not close(a[:, 6:], b[:, 6:])


@torch.no_grad()
def test_rotation_is_the_papers_matrix() -> None:
    """Su 2021, eq. 34 with pairs (i, i + E/2): explicit 2x2 rotations."""
    x, rope = torch.randn(1, 1, 12, 8), RopeConfig()
    rotated = rotation_at(rope, rotary_frequencies(rope, 8), torch.arange(12)[None]).apply(x)
    for t, i in itertools.product(range(12), range(4)):
        angle = t * 10000 ** (-2 * i / 8)
        a, b = float(x[0, 0, t, i]), float(x[0, 0, t, i + 4])
        assert float(rotated[0, 0, t, i]) == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-5)
        assert float(rotated[0, 0, t, i + 4]) == pytest.approx(b * math.cos(angle) + a * math.sin(angle), abs=1e-5)


def test_the_loss_is_torchs_cross_entropy_and_leaves_padding_out() -> None:
    logits, ids = torch.randn(2, 6, 50), torch.randint(50, (2, 6))
    expected = nn.CrossEntropyLoss()(logits[:, :-1].reshape(-1, 50), ids[:, 1:].reshape(-1))
    assert float(next_token_loss(logits, ids)) == pytest.approx(float(expected), rel=1e-6)
    padded = float(next_token_loss(logits, ids, torch.tensor([0, 3])))
    kept = torch.cat([logits[0, :-1], logits[1, 3:-1]]), torch.cat([ids[0, 1:], ids[1, 4:]])
    assert padded == pytest.approx(float(nn.CrossEntropyLoss()(*kept)), rel=1e-6)


def test_initialization_follows_the_paper() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, d_model=256, n_layers=8, d_ff=512)
    state = TransformerLM(config).state_dict()
    assert float(state["layers.0.self_attn.q_proj.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["layers.0.mlp.down_proj.weight"].std()) == pytest.approx(0.02 / math.sqrt(16), rel=0.05)


def test_a_model_trains() -> None:
    model = build(TINY).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    ids = torch.randint(50, (4, 16))
    losses = []
    for _ in range(30):
        loss = next_token_loss(model(ids).logits, ids)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 3}, "LMConfig.n_kv_heads is 3 with n_heads 4"),
        ({"d_model": 30}, "LMConfig.d_model is 30 with n_heads 4"),
        ({"head_dim": 7}, "LMConfig.head_dim is 7"),
        ({"norm": "batchnorm"}, "LMConfig.norm is 'batchnorm'"),
        ({"norm_position": "mid"}, "LMConfig.norm_position is 'mid'"),
        ({"activation": "tanh"}, "LMConfig.activation is 'tanh'"),
        ({"position": "alibi"}, "LMConfig.position is 'alibi'"),
        ({"vocab_size": 0}, "LMConfig.vocab_size is 0"),
        ({"n_layers": True}, "LMConfig.n_layers is True"),
        ({"dropout": 1.0}, "LMConfig.dropout is 1.0"),
        ({"norm_eps": float("nan")}, "LMConfig.norm_eps is nan"),
        ({"parallel": True, "norm_position": "post"}, "LMConfig.parallel with norm_position 'post'"),
        ({"window_layers": (0,)}, "LMConfig.window_layers or window_rope is set, window is not"),
        ({"window": 4, "window_layers": (9,)}, "LMConfig.window_layers is [9] with"),
        ({"unrotated_layers": (0, 0)}, "LMConfig.unrotated_layers is [0, 0] with"),
        ({"rope": RopeConfig(rotary_size=10)}, "RopeConfig.rotary_size is 10, a head has 8 numbers"),
        ({"logit_soft_cap": 0.0}, "LMConfig.logit_soft_cap is 0.0"),
        ({"residual_scale": math.inf}, "LMConfig.residual_scale is inf"),
    ],
)
def test_bad_configurations_name_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_configurations_survive_json_and_refuse_unknown_fields() -> None:
    for config in VARIANTS.values():
        assert LMConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"LMConfig has no field 'n_head'\ndid you mean 'n_heads'\?"):
        LMConfig.from_dict({**TINY.to_dict(), "n_head": 2})
    with pytest.raises(ConfigError, match="LMConfig lacks d_ff"):
        LMConfig.from_dict({k: v for k, v in TINY.to_dict().items() if k != "d_ff"})


@torch.no_grad()
def test_padding_queries_give_numbers() -> None:
    out = build(TINY)(torch.zeros(1, 4, dtype=torch.int64), pad_length=torch.tensor([3])).logits
    assert np.isfinite(out.numpy()).all()
