"""How many samples an export measures quality on."""

from __future__ import annotations

import pytest

from aigc_export.line.quality import samples_of
from aigc_export.recipes.recipe import export_recipe
from aigc_export.workloads.base import DEFAULT_SAMPLES
from aigc_export.workloads.text import TEXT


@pytest.mark.parametrize(
    ("precision", "parameters", "expected"),
    [
        ("fp32", 100_000, DEFAULT_SAMPLES),  # a small model
        ("fp32", 135_000_000, 8),
        ("fp32", 7_000_000_000, 8),
        ("int8", 135_000_000, TEXT.default_samples(135_000_000)),
        ("int4", 100_000, DEFAULT_SAMPLES),
    ],
)
def test_a_large_model_in_fp32_is_measured_on_few(precision: str, parameters: int, expected: int) -> None:
    recipe = export_recipe("lm", precision=precision)
    assert samples_of(recipe, TEXT.default_samples(parameters)) == expected
    assert expected >= 8


@pytest.mark.parametrize("default", [2, 4, 8])
def test_fp32_is_not_measured_on_more_than_other_precisions(default: int) -> None:
    assert samples_of(export_recipe("lm", precision="fp32"), default) == default


@pytest.mark.parametrize("own", [0, 2, 500])
def test_the_users_number_stays(own: int) -> None:
    assert samples_of(export_recipe("lm", quality_samples=own), 31) == own
