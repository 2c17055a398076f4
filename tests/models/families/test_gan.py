from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from aigc_models.families.gan import (
    GAN_LOSSES,
    Discriminator,
    DiscriminatorConfig,
    Generator,
    GeneratorConfig,
    hinge_loss,
    min_max_step,
    non_saturating_loss,
)
from aigc_runtime.errors import ConfigError

VARIANTS = ("conv_transpose", "upsample_conv")
EXPORT_TOLERANCE = 1e-5  # float32, three small convolutions, outputs in [-1, 1]
REAL = np.array([-3.0, -0.5, 0.0, 0.4, 2.5])
FAKE = np.array([-2.0, -0.1, 0.0, 1.3, 4.0])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small_generator(**changes: Any) -> Generator:
    sizes: dict[str, Any] = {"base_channels": 4, "latent_size": 6, "class_embedding_size": 3, **changes}
    return Generator(GeneratorConfig(**sizes))


def small_discriminator() -> Discriminator:
    return Discriminator(DiscriminatorConfig(base_channels=4))


def sgd(module: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=rate)


def test_the_non_saturating_discriminator_loss_is_minus_the_value_function() -> None:
    # Goodfellow 2014, eq. 1, with D = sigmoid(logit)
    expected = -(np.log(expit(REAL)).mean() + np.log(1 - expit(FAKE)).mean())
    actual = non_saturating_loss.discriminator(torch.tensor(REAL), torch.tensor(FAKE))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_a_discriminator_that_cannot_tell_pays_log_four() -> None:
    # Goodfellow 2014, theorem 1: the optimum of the game
    undecided = torch.zeros(3, dtype=torch.float64)
    assert non_saturating_loss.discriminator(undecided, undecided).item() == pytest.approx(np.log(4), rel=1e-12)


def test_the_non_saturating_generator_loss() -> None:
    expected = -np.log(expit(FAKE)).mean()
    assert non_saturating_loss.generator(torch.tensor(FAKE)).item() == pytest.approx(expected, rel=1e-12)


def test_the_generator_still_learns_where_the_discriminator_is_sure() -> None:
    logit = torch.tensor([-40.0], requires_grad=True)
    torch.autograd.backward(non_saturating_loss.generator(logit))
    assert logit.grad is not None
    assert logit.grad.item() == pytest.approx(-1.0)
    # log(1 - D), which the paper warns of, would not move: d/dl log(1 - sigmoid(l)) = -sigmoid(l)
    assert expit(-40.0) < 1e-17


def test_the_hinge_losses() -> None:
    expected = np.maximum(0, 1 - REAL).mean() + np.maximum(0, 1 + FAKE).mean()
    assert hinge_loss.discriminator(torch.tensor(REAL), torch.tensor(FAKE)).item() == pytest.approx(expected, rel=1e-12)
    assert hinge_loss.generator(torch.tensor(FAKE)).item() == pytest.approx(-FAKE.mean(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(GAN_LOSSES))
def test_losses_stay_finite_for_extreme_logits(name: str) -> None:
    extreme = torch.tensor([-1e4, 1e4])
    loss = GAN_LOSSES[name]
    assert torch.isfinite(loss.discriminator(extreme, extreme))
    assert torch.isfinite(loss.generator(extreme))


@pytest.mark.parametrize("upsampling", VARIANTS)
@pytest.mark.parametrize("size", [8, 16, 64])
def test_the_generator_gives_images_of_its_size_within_range(upsampling: str, size: int) -> None:
    generator = small_generator(upsampling=upsampling, image_size=size, image_channels=3, base_channels=2).eval()
    image = generator(20 * torch.randn(5, 6), torch.arange(5))
    assert image.shape == (5, 3, size, size)
    assert image.abs().max() <= 1


def test_the_label_changes_the_image() -> None:
    generator = small_generator().eval()
    latents = torch.randn(1, 6).repeat(2, 1)
    one, other = generator(latents, torch.tensor([1, 2]))
    assert not torch.allclose(one, other)


def test_the_logit_is_the_projection_of_the_features() -> None:
    # Miyato & Koyama 2018, eq. 3: y^T V phi(x) + psi(phi(x)), here in numpy
    discriminator = small_discriminator().eval()
    image, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 3, 3, 9])
    with torch.no_grad():
        phi = discriminator.features(image).sum(dim=(2, 3)).double().numpy()
        assert isinstance(discriminator.class_embedding, nn.Embedding)
        assert isinstance(discriminator.linear, nn.Linear)
        embedding = discriminator.class_embedding.weight.double().numpy()
        weight, bias = discriminator.linear.weight.double().numpy()[0], discriminator.linear.bias.double().numpy()
        actual = discriminator(image, labels).numpy()
    expected = phi @ weight + bias + np.einsum("bf,bf->b", embedding[labels.numpy()], phi)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_every_layer_of_the_discriminator_has_spectral_norm_one() -> None:
    discriminator = small_discriminator().train()
    for _ in range(200):  # one power iteration each
        discriminator(torch.randn(2, 1, 16, 16), torch.tensor([0, 1]))
    discriminator.eval()
    layers = [m for m in discriminator.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.Embedding))]
    assert len(layers) == 5
    for layer in layers:
        matrix = layer.weight.detach().flatten(1).double().numpy()
        assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1.0, abs=0.02)


def test_one_step_is_one_descent_of_each_side() -> None:
    rate = 0.1
    # Evaluation mode freezes BatchNorm and the power iterations, so that the step can be written down by hand.
    generator, discriminator = small_generator().eval(), small_discriminator().eval()
    images, labels = torch.randn(4, 1, 16, 16), torch.tensor([1, 2, 3, 4])
    g, d = copy.deepcopy(generator), copy.deepcopy(discriminator)
    losses = min_max_step(
        generator,
        discriminator,
        sgd(generator, rate),
        sgd(discriminator, rate),
        images=images,
        class_labels=labels,
        loss=hinge_loss,
        rng=torch.Generator().manual_seed(7),
        max_grad_norm=1e9,
    )
    rng = torch.Generator().manual_seed(7)
    z, y = torch.randn(4, 6, generator=rng), torch.randint(10, (4,), generator=rng)
    d_loss = (1 - d(images, labels)).clamp(min=0).mean() + (1 + d(g(z, y).detach(), y)).clamp(min=0).mean()
    descend(d, d_loss, rate)
    z, y = torch.randn(4, 6, generator=rng), torch.randint(10, (4,), generator=rng)
    g_loss = -d(g(z, y), y).mean()
    descend(g, g_loss, rate)
    assert losses == pytest.approx((d_loss.item(), g_loss.item()), rel=1e-5)
    for module, expected in ((discriminator, d), (generator, g)):
        for mine, theirs in zip(module.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def descend(module: nn.Module, loss: torch.Tensor, rate: float) -> None:
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(rate * gradient)


def test_a_step_clips_the_gradient_of_both_sides() -> None:
    generator, discriminator = small_generator(), small_discriminator()
    before = [copy.deepcopy(list(m.parameters())) for m in (generator, discriminator)]
    min_max_step(
        generator,
        discriminator,
        sgd(generator, 1.0),
        sgd(discriminator, 1.0),
        images=torch.randn(4, 1, 16, 16),
        class_labels=torch.tensor([1, 2, 3, 4]),
        loss=non_saturating_loss,
        rng=torch.Generator().manual_seed(0),
        max_grad_norm=1e-3,
    )
    for module, old in zip((generator, discriminator), before, strict=True):
        squares = [(a - b).square().sum().item() for a, b in zip(module.parameters(), old, strict=True)]
        assert 0 < math.sqrt(sum(squares)) <= 1.01e-3


# torch 2.13's exporter trips over its own deprecation (torch.utils._pytree.LeafSpec), and warns whenever two inputs
# share a dimension, be it the same Dim object.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:# The axis name. batch will not be used:UserWarning")
@pytest.mark.parametrize("upsampling", VARIANTS)
def test_an_export_with_dynamic_batch_matches_pytorch(upsampling: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    generator = small_generator(upsampling=upsampling)
    for _ in range(3):  # BatchNorm statistics other than the initial ones
        generator(torch.randn(8, 6), torch.randint(10, (8,)))
    generator.eval()
    rows = torch.export.Dim("batch")
    program = torch.onnx.export(
        generator,
        (torch.randn(2, 6), torch.tensor([1, 2])),
        dynamo=True,
        input_names=["latents", "class_labels"],
        output_names=["image"],
        dynamic_shapes=({0: rows}, {0: rows}),
        verbose=False,
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        latents, labels = torch.randn(batch, 6), torch.arange(batch)
        (actual,) = session.run(None, {"latents": latents.numpy(), "class_labels": labels.numpy()})
        with torch.no_grad():
            expected = generator(latents, labels).numpy()
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() <= EXPORT_TOLERANCE


@pytest.mark.parametrize("size", [4, 0, 12, 24])
def test_a_size_that_no_doubling_reaches(size: int) -> None:
    for config in (GeneratorConfig, DiscriminatorConfig):
        with pytest.raises(ConfigError, match=rf"{config.__name__}\.image_size is {size}\nmust be"):
            config(image_size=size)


@pytest.mark.parametrize("size", ["16", 16.0, True])
def test_a_size_that_is_no_integer(size: object) -> None:
    with pytest.raises(ConfigError, match=r"GeneratorConfig\.image_size is"):
        GeneratorConfig.from_dict({"image_size": size})


def test_an_unknown_upsampling_lists_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="upsampling is 'bilinear'\nvalid: conv_transpose, upsample_conv"):
        GeneratorConfig.from_dict({"upsampling": "bilinear"})


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no field 'latent_sise'\ndid you mean 'latent_size'"):
        GeneratorConfig.from_dict({"latent_sise": 3})


def test_a_configuration_survives_json() -> None:
    config = GeneratorConfig(image_size=32, upsampling="upsample_conv")
    assert GeneratorConfig.from_dict(config.to_dict()) == config
