"""Which pictures a shipped classifier knows, and what it has of the real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from aigc_models.data.image_data import digits
from aigc_models.evaluation import known_pictures as module
from aigc_models.evaluation.known_pictures import (
    DIGITS,
    EMOJI,
    FASHION,
    KNOWN_PICTURES,
    REAL_FEATURES,
    known_pictures,
    load_classifier,
)
from aigc_models.evaluation.metrics import classifier_features, moments_distance
from aigc_models.evaluation.quality import image_quality
from aigc_models.sources.shipped import MODELS, load_shipped
from aigc_models.weights.checkpoint import load_checkpoint, shipped_checkpoint
from aigc_runtime.errors import CheckpointError, InputError


@pytest.mark.parametrize("data", KNOWN_PICTURES)
def test_the_classifier_is_of_these_pictures_and_classes(data: str) -> None:
    known = KNOWN_PICTURES[data]
    classifier, real = load_classifier(data)
    config = classifier.config
    assert (config.image_channels, config.image_size, config.image_size) == known.sample_shape
    assert config.num_classes == len(known.class_names)
    names = load_checkpoint(shipped_checkpoint(known.classifier)).config.get("class_names")
    assert names in (None, [*known.class_names])
    assert (real.mean.shape, real.covariance.shape) == ((config.features,), (config.features, config.features))
    assert np.linalg.eigvalsh(real.covariance).min() > -1e-6 * np.trace(real.covariance)
    assert np.array_equal(real.covariance, real.covariance.T)
    assert moments_distance(real, real) == pytest.approx(0, abs=1e-3)


def test_what_is_known_is_known_by_shape_and_names() -> None:
    for data, known in KNOWN_PICTURES.items():
        assert known_pictures(known.sample_shape, [*known.class_names]) == data
        assert known_pictures(known.sample_shape, [*known.class_names][::-1]) == ""
        assert known_pictures((1, 8, 8), [*known.class_names]) == ""
        assert known_pictures(known.sample_shape, None) == ""
    shown = {name: load_shipped(name) for name, entry in MODELS.items() if entry.kind != "text"}
    found = {n: known_pictures(p.settings.sample_shape, [*p.settings.class_names]) for n, p in shown.items()}
    assert found == {"unet": DIGITS, "gan": DIGITS, "emoji": EMOJI, "fashion": FASHION}


def test_the_moments_of_the_digits_are_those_of_their_features() -> None:
    classifier, real = load_classifier(DIGITS)
    expected = classifier_features(classifier, digits().train.numpy()).astype(np.float64)
    np.testing.assert_allclose(real.mean, expected.sum(axis=0) / len(expected), rtol=1e-6)
    centered = expected - expected.mean(axis=0)
    np.testing.assert_allclose(real.covariance, centered.T @ centered / (len(expected) - 1), rtol=1e-6, atol=1e-9)


def test_noise_is_no_emoji() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (60, 3, 32, 32)).astype(np.float32)
    found = {metric.name: metric.value for metric in image_quality(noise, np.arange(60) % 6, data=EMOJI)}
    assert found["class_accuracy"] < 0.5
    assert found["frechet_distance"] > 500
    with pytest.raises(InputError, match="1 images"):
        image_quality(noise[:1], np.zeros(1, np.int64), data=EMOJI)


def test_a_damaged_file_of_moments_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shipped_checkpoint("emoji_classifier"), tmp_path / "emoji_classifier")
    monkeypatch.setattr(module, "shipped_checkpoint", lambda name: tmp_path / name)
    for content in ('{"mean": [0]}', "{", None):
        path = tmp_path / "emoji_classifier" / REAL_FEATURES
        path.unlink() if content is None else path.write_text(content)
        load_classifier.cache_clear()
        with pytest.raises(CheckpointError, match="real_features"):
            load_classifier(EMOJI)
    load_classifier.cache_clear()
