"""What the configuration of a family says about each precision."""

from __future__ import annotations

import pytest

from aigc_calibration.config import DEFAULTS, default_config
from aigc_models.zoo import MODELS


@pytest.mark.parametrize("family", list(DEFAULTS))
def test_a_search_starts_from_the_integers(family: str) -> None:
    assert default_config(family, "auto") == default_config(family, "int8")


def test_what_stays_float_in_integers() -> None:
    assert default_config("gan", "int8").keeps("project")
    assert not default_config("gan", "int8").keeps("to_image")
    assert default_config("gan", "int4").keeps("to_image")
    assert default_config("text", "int8").keep_float
    assert default_config("text", "int4") == DEFAULTS["text"]
    assert not default_config("text", "int4").keep_float


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_modules_that_stay_float_exist(name: str, precision: str) -> None:
    """A path that no module has would keep nothing."""
    from aigc_models.zoo import load_model

    spec = load_model(name).spec
    paths = {path.removeprefix("model").removeprefix(".") for path, _ in spec.module.named_modules()}
    kept = default_config(spec.family, precision).keep_float
    assert all(path in paths for path in kept), kept
