"""The median of rounds and its error: that of many normal values, and no more for a disturbed round."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_calibration.search.median import median_and_error


def test_the_error_is_how_far_medians_of_other_rounds_are_apart() -> None:
    draws = np.random.default_rng(0).normal(5.0, 2.0, (2000, 41))
    found = [median_and_error(list(row)) for row in draws]
    medians, errors = np.array(found).T
    assert medians.mean() == pytest.approx(5.0, abs=0.05)
    assert np.median(errors) == pytest.approx(medians.std(), rel=0.1)


def test_a_disturbed_round_changes_neither() -> None:
    rounds = [1.0, 1.1, 0.9, 1.05, 0.95, 1.02, 0.98]
    quiet, disturbed = median_and_error([*rounds, 1.2]), median_and_error([*rounds, 50.0])
    assert disturbed == pytest.approx(quiet)
