"""StyleGAN2 against another reading of the paper, as it is trained and as it is exported."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.folded import FoldedSynthesis
from aigc_models.families.stylegan2.generator import StyleGAN2
from aigc_models.families.stylegan2.layers import blur_filter, normalized
from aigc_runtime.errors import ConfigError

from .paper import State, mapped, public_state, synthesized

SCALE = 1e-5
"""Of the largest number: what float32 may differ from float64."""


def config(**changes: Any) -> StyleGAN2Config:
    sizes: dict[str, Any] = {"z_size": 7, "w_size": 9, "mapping_layers": 3, "channels": (6, 5, 4)}
    return StyleGAN2Config(**{**sizes, **changes})


def loaded(state: State, **changes: Any) -> StyleGAN2:
    model = StyleGAN2(config(**changes)).eval()
    model.load_state_dict(state, strict=True)  # every public name, and no other
    return model


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max() / expected.abs().max()) < SCALE


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_the_whole_generator(classes: int) -> None:
    state = public_state(classes=classes)
    model = loaded(state, num_classes=classes or None)
    z, labels = draw(4, 7), [0, 2, 1, 2] if classes else None
    given = None if labels is None else torch.tensor(labels)
    w = mapped(state, z, labels)
    assert close(model.mapping(z, given), w)
    assert close(model.mapping.folded()(z, given), w)
    expected = synthesized(state, w[:, None].repeat(1, 6, 1))
    assert expected.shape == (4, 3, 16, 16)
    assert close(model(z, given), expected)
    other = synthesized(
        {**state, "synthesis.b8.conv0.weight": state["synthesis.b8.conv0.weight"].flip(3)}, w[:, None].repeat(1, 6, 1)
    )
    assert not close(other, expected)  # a mirrored weight is another one


@pytest.mark.parametrize("noise", ["constant", "none", "random"])
@torch.no_grad()
def test_a_style_for_each_layer_and_every_noise(noise: Any) -> None:
    state = public_state(colors=1, channels=(3, 4, 2, 5))
    model = loaded(state, image_channels=1, channels=(3, 4, 2, 5))
    ws = draw(2, 8, 9)
    tensors = model.synthesis.draw_noise(2, torch.Generator().manual_seed(5))
    assert [tuple(t.shape) for t in tensors] == [(2, 1, s, s) for s in (4, 8, 8, 16, 16, 32, 32)]
    given = tensors if noise == "random" else noise
    expected = synthesized(state, ws, given)
    assert close(model.synthesis(ws, given), expected)
    folded = FoldedSynthesis(model.synthesis, noise).eval()
    assert close(folded(ws, *(tensors if noise == "random" else ())), expected)
    if noise == "random":
        assert not close(model.synthesis(ws, "none"), expected)
    assert not close(model.synthesis(ws.flip(1), given), expected)


@torch.no_grad()
def test_a_generator_without_noise_and_one_that_is_clamped() -> None:
    state, ws = public_state(noise=False), draw(2, 6, 9)
    expected = synthesized(state, ws)
    assert close(loaded(state, noise=False).synthesis(ws), expected)
    assert close(FoldedSynthesis(loaded(state, noise=False).synthesis)(ws), expected)
    held = loaded(state, noise=False, clamp=0.5)
    assert not close(held.synthesis(ws), expected)
    assert close(held.synthesis(ws), FoldedSynthesis(held.synthesis)(ws).double())
    assert close(loaded(state, noise=False, clamp=1e6).synthesis(ws), expected)


@torch.no_grad()
def test_styles_are_mixed_and_their_mean_is_tracked() -> None:
    model = loaded(public_state())
    a, b = draw(2, 9), draw(2, 9, seed=2)
    mixed = model.mixed(a, b, 4)
    assert torch.equal(mixed[:, :4], a[:, None].expand(-1, 4, -1))
    assert torch.equal(mixed[:, 4:], b[:, None].expand(-1, 2, -1))
    before = model.mapping.w_avg.clone()
    model.mapping.track(a)
    assert torch.allclose(model.mapping.w_avg, 0.995 * before + 0.005 * a.mean(0))


def test_everything_that_is_trained_has_a_gradient() -> None:
    torch.manual_seed(0)
    model = StyleGAN2(config(num_classes=2))
    image = model(draw(2, 7), torch.tensor([0, 1]), noise=model.synthesis.draw_noise(2))
    torch.autograd.backward(image.square().mean())
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert without == []
    assert 0.1 < float(image.detach().std()) < 10  # equalized rates keep the scale


def test_normalization_holds_for_nothing_and_for_little() -> None:
    assert torch.equal(normalized(torch.zeros(1, 4)), torch.zeros(1, 4))
    x = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(normalized(x), x / 12.5**0.5)
    assert torch.allclose(blur_filter(4)[0] * 64, torch.tensor([1.0, 3.0, 3.0, 1.0]))


def test_light_steps_are_named_as_the_export_names_them() -> None:
    folded = FoldedSynthesis(StyleGAN2(config()).synthesis)
    light = folded.light()
    assert {"b4_conv1.affine", "b8_conv0.blur", "b8_upsample", "b16_torgb.conv", "b4_conv1.demodulation.energy"} < set(
        light
    )
    assert not any(name.endswith(("conv0.conv", "conv1.conv")) for name in light)
    assert all(isinstance(folded.get_submodule(name), nn.Module) for name in light)


def test_what_does_not_fit_is_refused() -> None:
    model = StyleGAN2(config(num_classes=2))
    with pytest.raises(ConfigError, match="class_labels is not given, num_classes is 2"):
        model(draw(1, 7))
    with pytest.raises(ConfigError, match=r"ws has shape \[1, 5, 9\], expected \[B, 6, 9\]"):
        model.synthesis(draw(1, 5, 9))
    with pytest.raises(ConfigError, match="noise is 2 tensors\n'constant', 'none' or 5 tensors are valid"):
        model.synthesis(draw(1, 6, 9), model.synthesis.draw_noise(1)[:2])
    with pytest.raises(ConfigError, match="noise is 'const'"):
        model.synthesis(draw(1, 6, 9), "const")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"channels": (4,)}, "channels has 1 numbers"),
    ({"channels": (1,) * 12}, "channels has 12 numbers"),
    ({"channels": (4, 0)}, r"channels\[1\] is 0"),
    ({"filter_size": 3}, "filter_size is 3\nmust be an even number"),
    ({"mapping_layers": 65}, "mapping_layers is 65"),
    ({"clamp": -1.0}, "clamp is -1.0"),
    ({"mapping_rate": 0.0}, "mapping_rate is 0.0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_sizes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_a_configuration_is_read_as_it_is_written() -> None:
    one = config(num_classes=3, clamp=256.0)
    assert StyleGAN2Config.from_dict(one.to_dict()) == one
    with pytest.raises(ConfigError, match="has no field 'resnet'"):
        StyleGAN2Config.from_dict({**one.to_dict(), "resnet": True})
