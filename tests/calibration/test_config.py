"""What the configuration of a family says about each precision."""

from __future__ import annotations

import pytest

from aigc_calibration.config import DEFAULTS, QuantConfig, default_config
from aigc_models.sources.shipped import MODELS
from aigc_runtime.errors import ConfigError


@pytest.mark.parametrize("family", list(DEFAULTS))
def test_a_search_starts_from_the_integers(family: str) -> None:
    assert default_config(family, "auto") == default_config(family, "int8")


def test_what_stays_float_in_integers() -> None:
    assert default_config("gan", "int8").why_float("project")
    assert not default_config("gan", "int8").why_float("to_image")
    assert default_config("gan", "int4").why_float("to_image")
    assert default_config("text", "int8").sensitive
    assert default_config("text", "int4") == DEFAULTS["text"]
    assert not default_config("text", "int4").sensitive


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_modules_that_stay_float_exist(name: str, precision: str) -> None:
    """A path that no module has would keep nothing."""
    from aigc_models.sources.shipped import load_shipped

    program = load_shipped(name)
    paths = {path.removeprefix("model").removeprefix(".") for path, _ in program.part.module.named_modules()}
    kept = default_config(program.kind, precision).sensitive
    assert all(path in paths for path in kept), kept


@pytest.mark.parametrize("path", ["blocks.0.1", "blocks", "to_image"])
def test_modules_and_what_they_hold_can_be_named(path: str) -> None:
    QuantConfig(keep_float=(path,)).check_modules(["blocks.0.1", "blocks.1.1", "to_image", ""])


@pytest.mark.parametrize("path", ["block", "blocks.0.1.weight", "to_imag", "", "."])
def test_a_module_that_is_not_there_is_an_error_that_names_its_neighbors(path: str) -> None:
    with pytest.raises(ConfigError, match="was not found among those that can be quantized") as err:
        QuantConfig(keep_float=("to_image", path)).check_modules(["blocks.0.1", "to_image", ""])
    assert "to_image" in str(err.value.hint) or "blocks.0.1" in str(err.value.hint)
