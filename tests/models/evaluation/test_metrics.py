from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import log_softmax

from aigc_models.evaluation.metrics import (
    bits_per_byte,
    class_accuracy,
    classifier_features,
    frechet_distance,
    picture_psnr,
    score_windows,
    text_windows,
)
from aigc_models.families.classifier import Classifier, ClassifierConfig
from aigc_runtime.errors import EngineError, InputError

RNG_SEED = 3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(RNG_SEED)


def with_moments(rng: np.random.Generator, mean: np.ndarray, covariance: np.ndarray, n: int = 400) -> np.ndarray:
    """A sample whose mean and (n - 1) covariance are exactly the given ones."""
    raw = rng.standard_normal((n, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(raw, rowvar=False))).T)
    sample: np.ndarray = white @ np.linalg.cholesky(covariance).T + mean
    return sample


def test_equally_likely_bytes_cost_eight_bits(rng: np.random.Generator) -> None:
    windows = rng.integers(0, 256, (5, 9))
    assert bits_per_byte(lambda ids: [np.zeros((*ids.shape, 256))], windows) == pytest.approx(8.0, rel=1e-12)


def test_bits_per_byte_is_scipys_likelihood_whatever_the_batch(rng: np.random.Generator) -> None:
    table, windows = rng.standard_normal((256, 256)) * 5, rng.integers(0, 256, (7, 12))
    expected = -log_softmax(table, axis=1)[windows[:, :-1], windows[:, 1:]].mean() / np.log(2)
    for batch in (1, 3, 16):
        assert bits_per_byte(lambda ids: [table[ids]], windows, batch=batch) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("most", [1, 4, 11, 50])
def test_pieces_of_a_window_score_as_the_whole(rng: np.random.Generator, most: int) -> None:
    table, windows = rng.standard_normal((256, 256)), rng.integers(0, 256, (5, 12))
    nats, likeliest = score_windows(
        lambda ids: (table[ids[:, at : at + most]] for at in range(0, ids.shape[1], most)), windows, batch=3
    )
    expected = -log_softmax(table, axis=1)[windows[:, :-1], windows[:, 1:]].mean(axis=1)
    np.testing.assert_allclose(nats, expected, rtol=1e-10)
    np.testing.assert_array_equal(likeliest, table.argmax(axis=1)[windows[:, :-1]])


def test_a_certain_model_costs_nothing_and_large_logits_do_not_overflow() -> None:
    windows = np.full((2, 4), 7)
    certain = np.zeros(256, dtype=np.float32)
    certain[7] = 1e4
    assert bits_per_byte(lambda ids: [np.broadcast_to(certain, (*ids.shape, 256))], windows) == 0.0


def test_nan_logits_are_no_score() -> None:
    with pytest.raises(EngineError, match="bits per byte came out as nan"):
        bits_per_byte(lambda ids: [np.full((*ids.shape, 256), np.nan)], np.zeros((2, 5), dtype=np.int64))


def test_windows_are_stretches_of_the_text_and_reach_its_end() -> None:
    text = np.arange(20, dtype=np.uint8)
    windows = text_windows(text, count=500, length=4, seed=0)
    assert windows.shape == (500, 5)
    assert windows.dtype == np.int64
    assert (np.diff(windows, axis=1) == 1).all()
    assert (windows.min(), windows.max()) == (0, 19)


def test_windows_follow_the_seed() -> None:
    text = np.arange(200, dtype=np.uint8)
    one, again, other = (text_windows(text, count=9, length=4, seed=s) for s in (1, 1, 2))
    assert (one == again).all()
    assert (one != other).any()


def test_a_text_shorter_than_a_window() -> None:
    assert text_windows(np.arange(5, dtype=np.uint8), count=2, length=4, seed=0).shape == (2, 5)
    with pytest.raises(InputError, match="has 4 tokens\na window needs 5"):
        text_windows(np.arange(4, dtype=np.uint8), count=2, length=4, seed=0)


def test_diagonal_gaussians_have_a_closed_form(rng: np.random.Generator) -> None:
    # |m_a - m_b|^2 + sum (s_a - s_b)^2 where both covariances are diagonal
    m_a, m_b = np.array([0.0, 1.0, -2.0]), np.array([0.5, 1.0, 1.0])
    s_a, s_b = np.array([1.0, 0.3, 2.0]), np.array([2.0, 0.3, 0.1])
    a, b = with_moments(rng, m_a, np.diag(s_a**2)), with_moments(rng, m_b, np.diag(s_b**2))
    expected = ((m_a - m_b) ** 2).sum() + ((s_a - s_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_full_covariances_agree_with_scipys_matrix_root(rng: np.random.Generator) -> None:
    # Heusel 2017, eq. 6, as written
    a, b = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6)), rng.standard_normal((200, 6)) + 1
    c_a, c_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    gap = a.mean(axis=0) - b.mean(axis=0)
    expected = gap @ gap + np.trace(c_a + c_b - 2 * np.real(sqrtm(c_a @ c_b)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_a_rank_deficient_sample_is_at_no_distance_from_itself(rng: np.random.Generator) -> None:
    features = np.maximum(rng.standard_normal((50, 3)) @ rng.standard_normal((3, 8)), 0)
    features[:, 2] = 0  # a dead unit
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-6)


def test_one_feature_is_enough(rng: np.random.Generator) -> None:
    a, b = with_moments(rng, np.zeros(1), np.eye(1)), with_moments(rng, np.ones(1), 9 * np.eye(1))
    assert frechet_distance(a, b) == pytest.approx(1 + 4, rel=1e-9)


def test_features_that_cannot_be_compared(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match=r"features of shapes \(1, 3\) and \(9, 3\)"):
        frechet_distance(np.zeros((1, 3)), np.zeros((9, 3)))
    with pytest.raises(InputError, match="of equal length"):
        frechet_distance(np.zeros((9, 4)), np.zeros((9, 3)))
    for bad in (np.nan, np.inf):
        features = rng.standard_normal((9, 3))
        features[4, 1] = bad
        with pytest.raises(EngineError, match="NaN or infinity"):
            frechet_distance(features, rng.standard_normal((9, 3)))


def test_class_accuracy_counts_hits_and_features_are_the_classifiers() -> None:
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(image_size=8, channels=(2, 2), features=3)).eval()
    images = np.random.default_rng(0).standard_normal((8, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        seen = classifier(torch.from_numpy(images)).numpy().argmax(axis=1)
        features = classifier.features(torch.from_numpy(images)).numpy()
    asked = seen.copy()
    asked[:2] = (asked[:2] + 1) % 10
    assert class_accuracy(classifier, images, asked) == 0.75
    np.testing.assert_array_equal(classifier_features(classifier, images), features)
    with pytest.raises(InputError, match="8 images and 1 labels"):
        class_accuracy(classifier, images, asked[:1])


def test_psnr_is_the_formula_and_refuses_what_it_cannot_compare(rng: np.random.Generator) -> None:
    reference = rng.random((3, 8, 8))
    actual = np.clip(reference + 0.05 * rng.standard_normal(reference.shape), 0, 1)
    error = float(np.square(reference - actual).mean())
    assert picture_psnr(reference, actual) == pytest.approx(-10 * np.log10(error))
    assert picture_psnr(2 * reference, 2 * actual, peak=2.0) == pytest.approx(-10 * np.log10(error))
    assert picture_psnr(reference, reference) == 200.0
    with pytest.raises(InputError, match=r"pictures of shapes \[3, 8, 8\] and \[3, 8, 1\]"):
        picture_psnr(reference, actual[..., :1])
    with pytest.raises(EngineError, match="the error came out as nan"):
        picture_psnr(reference, np.full_like(reference, np.nan))
