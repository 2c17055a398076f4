from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import correlate
from scipy.special import log_softmax

from aigc_models.families.classifier import Classifier, ClassifierConfig, classification_loss
from aigc_runtime.errors import ConfigError

TOLERANCE = 1e-5  # float32 against float64, sums of a few hundred terms


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(image_size=8, channels=(3, 5), features=7, num_classes=4)).eval()


def convolve_pool(x: np.ndarray, conv: torch.nn.Conv2d) -> np.ndarray:
    """3x3 convolution, ReLU, 2x2 maximum, by scipy."""
    assert conv.bias is not None
    weight, bias = (p.detach().double().numpy() for p in (conv.weight, conv.bias))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.stack([correlate(padded, w, mode="valid")[0] + b for w, b in zip(weight, bias, strict=True)])
    out = np.maximum(out, 0)
    c, h, w = out.shape
    pooled: np.ndarray = out.reshape(c, h // 2, 2, w // 2, 2).max(axis=(2, 4))
    return pooled


def test_features_and_logits_are_those_of_scipy(classifier: Classifier) -> None:
    image = np.random.default_rng(0).standard_normal((1, 8, 8))
    hidden = convolve_pool(convolve_pool(image, classifier.conv1), classifier.conv2).reshape(-1)
    matrices = [p.detach().double().numpy() for p in (classifier.hidden.weight, classifier.hidden.bias)]
    features = np.maximum(matrices[0] @ hidden + matrices[1], 0)
    out = [p.detach().double().numpy() for p in (classifier.output.weight, classifier.output.bias)]
    given = torch.from_numpy(image).float().unsqueeze(0)
    with torch.no_grad():
        np.testing.assert_allclose(classifier.features(given)[0].numpy(), features, atol=TOLERANCE)
        np.testing.assert_allclose(classifier(given)[0].numpy(), out[0] @ features + out[1], atol=TOLERANCE)


def test_the_loss_is_cross_entropy_in_nats() -> None:
    logits, labels = np.random.default_rng(1).standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    expected = -log_softmax(logits, axis=1)[np.arange(5), labels].mean()
    actual = classification_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [0, 2, 18, 16.0, "16"])
def test_a_bad_size(size: object) -> None:
    with pytest.raises(ConfigError, match=r"ClassifierConfig\.image_size is"):
        ClassifierConfig.from_dict({"image_size": size})


def test_bad_channels() -> None:
    with pytest.raises(ConfigError, match=r"ClassifierConfig\.channels has 1 entries, expected 2"):
        ClassifierConfig.from_dict({"channels": [3]})
    with pytest.raises(ConfigError, match=r"channels\[1\] is 0"):
        ClassifierConfig.from_dict({"channels": [3, 0]})


def test_a_configuration_survives_json() -> None:
    config = ClassifierConfig(channels=(8, 16))
    assert ClassifierConfig.from_dict(config.to_dict()) == config
