"""The residual discriminator: against figure 7 of the paper read once more, in float64 and by scipy's convolutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from aigc_models.families.stylegan2.discriminator import (
    ResidualDiscriminator,
    ResidualDiscriminatorConfig,
    minibatch_deviation,
)
from aigc_runtime.errors import ConfigError

FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
CLOSE = 1e-10


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(classes: int | None = 3, colors: int = 2, channels: tuple[int, ...] = (5, 4, 3)) -> ResidualDiscriminator:
    torch.manual_seed(0)
    config = ResidualDiscriminatorConfig(channels=channels, image_channels=colors, num_classes=classes, group_size=2)
    return ResidualDiscriminator(config).double()


def correlated(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[I, H, W] by [O, I, k, k], only where the kernel lies within."""
    return np.array([sum(signal.correlate2d(c, k, mode="valid") for c, k in zip(x, w, strict=True)) for w in weight])


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x) * 2**0.5


def padded(x: np.ndarray, before: int, behind: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (before, behind), (before, behind)))


def filtered(x: np.ndarray) -> np.ndarray:
    return np.array([signal.convolve2d(channel, FIR, mode="valid") for channel in x])


def by_the_paper(model: ResidualDiscriminator, images: Tensor, labels: list[int] | None) -> np.ndarray:
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}

    def weight(name: str) -> np.ndarray:
        w: np.ndarray = state[f"{name}.weight"]
        return w / math.sqrt(w[0].size)

    def bias(name: str) -> np.ndarray:
        return np.asarray(state[f"{name}.bias"])[:, None, None]

    features = []
    for image in images.numpy():
        x = leaky(correlated(image, weight("from_image")) + bias("from_image"))
        for n in range(len(model.config.channels) - 1):
            name = f"blocks.{n}"
            # Both ways: the filter over a padded picture, then every second place.
            skip = correlated(filtered(padded(x, 1, 1)), weight(f"{name}.skip"))[:, ::2, ::2]
            y = leaky(correlated(padded(x, 1, 1), weight(f"{name}.conv0")) + bias(f"{name}.conv0"))
            y = correlated(filtered(padded(y, 2, 2)), weight(f"{name}.conv1"))[:, ::2, ::2]
            x = (leaky(y + bias(f"{name}.conv1")) + skip) / 2**0.5
        features.append(x)
    half = len(features) // 2
    logits = []
    for n, x in enumerate(features):
        pair = np.stack([features[n % half], features[n % half + half]])
        spread = np.sqrt(((pair - pair.mean(0)) ** 2).mean(0) + 1e-8).mean()
        y = np.concatenate([x, np.full((1, 4, 4), spread)])
        y = leaky(correlated(padded(y, 1, 1), weight("conv")) + bias("conv"))
        phi = leaky(weight("hidden") @ y.ravel() + state["hidden.bias"])
        logit = (weight("output") @ phi + state["output.bias"])[0]
        if labels is not None:
            logit += state["embed.weight"][labels[n]] @ phi / math.sqrt(len(phi))
        logits.append(logit)
    return np.array(logits)


@pytest.mark.parametrize("classes", [None, 3])
def test_it_is_that_of_the_paper(classes: int | None) -> None:
    model = make(classes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=rng(1)))
    images = torch.randn(4, 2, 16, 16, generator=rng(), dtype=torch.float64)
    labels = None if classes is None else [2, 0, 1, 1]
    with torch.no_grad():
        found = model(images, None if labels is None else torch.tensor(labels)).numpy()
    np.testing.assert_allclose(found, by_the_paper(model, images, labels), rtol=CLOSE, atol=CLOSE)
    wrong = by_the_paper(model, images, None if labels is None else labels[::-1])
    if labels is not None:  # the comparison can fail
        assert np.abs(found - wrong).max() > 1e-3


def test_a_batch_of_equal_images_has_no_spread() -> None:
    x = torch.randn(1, 3, 4, 4, generator=rng()).repeat(4, 1, 1, 1)
    appended = minibatch_deviation(x, 4)
    assert appended.shape == (4, 4, 4, 4)
    torch.testing.assert_close(appended[:, 3], torch.full((4, 4, 4), 1e-4))  # the root of epsilon
    assert minibatch_deviation(torch.randn(4, 3, 4, 4, generator=rng()), 4)[:, 3].min() > 0.1


@pytest.mark.parametrize(("batch", "group"), [(6, 3), (7, 1), (8, 4), (2, 2)])
def test_groups_are_as_large_as_divides_the_batch(batch: int, group: int) -> None:
    x = torch.randn(batch, 2, 1, 1, generator=rng(), dtype=torch.float64)
    appended = minibatch_deviation(x, 4)[:, 2, 0, 0].numpy()
    rows = x.flatten(1).numpy()
    for n in range(batch):
        members = rows[n % (batch // group) :: batch // group]
        assert appended[n] == pytest.approx(np.sqrt(members.var(axis=0) + 1e-8).mean())


def test_it_tells_a_generator_that_repeats_itself() -> None:
    model = make(None)
    images = torch.randn(4, 2, 16, 16, generator=rng(), dtype=torch.float64)
    with torch.no_grad():
        assert not torch.allclose(model(images)[:1], model(images[:1].repeat(4, 1, 1, 1))[:1])


def test_classes_are_given_where_it_has_them() -> None:
    images = torch.zeros(2, 2, 16, 16, dtype=torch.float64)
    with pytest.raises(ConfigError, match="class_labels is not given, num_classes is 3"):
        make(3)(images)
    with pytest.raises(ConfigError, match="class_labels is given, num_classes is None"):
        make(None)(images, torch.zeros(2, dtype=torch.int64))


def test_configurations_that_make_none() -> None:
    with pytest.raises(ConfigError, match="channels has 1 numbers\none for 4x4"):
        ResidualDiscriminatorConfig(channels=(8,))
    with pytest.raises(ConfigError, match="filter_size is 3\nmust be an even number"):
        ResidualDiscriminatorConfig(filter_size=3)
    with pytest.raises(ConfigError, match=r"channels\[1\] is 0"):
        ResidualDiscriminatorConfig(channels=(8, 0))
    with pytest.raises(ConfigError, match="group_size is 0"):
        ResidualDiscriminatorConfig(group_size=0)
