"""Recipes from Python: what is overridden is a field that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_export.recipes.recipe import export_recipe
from aigc_runtime.errors import UnknownNameError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("qualty_samples", "quality_samples"), ("calibration_sample", "calibration_samples"), ("targets", "target")],
)
def test_an_argument_that_there_is_not_is_named_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown argument of export_recipe '{name}'\n") as caught:
        export_recipe("gan", **{name: 3})  # type: ignore[arg-type]
    assert caught.value.nearest == nearest


def test_a_field_that_there_is_is_overridden() -> None:
    assert export_recipe("gan", quality_samples=3, seed=4).quality_samples == 3


@pytest.mark.parametrize("name", ["calibration_data", "eval_data", "calibration", "checkpoint"])
def test_a_file_may_be_named_by_a_path(name: str, tmp_path: Path) -> None:
    recipe = export_recipe("gan", precision="int8", **{name: tmp_path / "file"})  # type: ignore[arg-type]
    assert getattr(recipe, name) == str(tmp_path / "file")


def test_a_number_of_samples_stands_where_it_is_asked_for() -> None:
    quantization = export_recipe("lm", precision="int4").quantization
    assert quantization is not None
    assert quantization.samples is None
    asked = export_recipe("lm", precision="int4", calibration_samples=48).quantization
    assert asked is not None
    assert asked.samples == 48
