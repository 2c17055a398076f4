"""What a change to a graph does to its results in 8 bits."""

from __future__ import annotations

import pytest

from aigc_calibration.config import QuantConfig
from aigc_calibration.eight_bit_noise import Judge

from .decoder import decoder

CONFIG = QuantConfig(float_share=0.0)


def test_noise_is_that_of_the_sites_that_are_named() -> None:
    model, data = decoder(loud=300.0)
    judge = Judge(model, data, CONFIG)
    each = {name: judge.noise(model, sites=[name]) for name in ("up_0", "down_0", "up_1", "down_1", "head_product")}
    assert all(noise > 0 for noise in each.values())
    assert judge.noise(model, sites=[]) == 0
    assert judge.noise(model) == judge.noise(model, sites=list(each))
    assert judge.noise(model) > max(each.values()) / 2


def test_the_best_of_several_methods_counts() -> None:
    model, data = decoder(loud=300.0)
    judge = Judge(model, data, CONFIG)
    alone = [judge.noise(model, methods=[method]) for method in ("minmax", "percentile")]
    assert alone[0] != alone[1]
    assert judge.noise(model, methods=("minmax", "percentile")) == min(alone)


def test_another_graph_is_held_against_the_first_ones_results() -> None:
    model, data = decoder()
    other, _ = decoder(seed=1)
    judge = Judge(model, data, CONFIG)
    assert judge.noise(other, sites=[]) == pytest.approx(1.9, abs=0.6)
