"""The configuration of a quantization: which modules it names, and what of it is refused."""

from __future__ import annotations

import pytest

from aigc_calibration.config import QuantConfig
from aigc_runtime.errors import ConfigError, UnknownNameError

MODULES = ["blocks.0.1", "blocks.1.1", "to_image", ""]


@pytest.mark.parametrize("path", ["blocks.0.1", "blocks", "to_image"])
def test_modules_and_what_they_hold_can_be_named(path: str) -> None:
    assert QuantConfig(keep_float=(path,), sensitive=(path,), wide=(path,)).check_modules(MODULES) == ()


@pytest.mark.parametrize("path", ["block", "blocks.0.1.weight", "to_imag", "", "."])
def test_a_module_that_is_not_there_is_an_error_that_names_its_neighbors(path: str) -> None:
    with pytest.raises(ConfigError, match="was not found among those that can be quantized") as err:
        QuantConfig(keep_float=("to_image", path)).check_modules(MODULES)
    assert "to_image" in str(err.value.hint) or "blocks.0.1" in str(err.value.hint)


@pytest.mark.parametrize("field", ["sensitive", "wide"])
def test_a_hint_that_names_no_module_is_a_warning_that_names_its_neighbors(field: str) -> None:
    config = QuantConfig(**{field: ("to_image", "to_imag")})  # type: ignore[arg-type]
    (warning,) = config.check_modules(MODULES)
    assert warning.startswith(f"{field} names the module 'to_imag', which is not among those")
    assert "nearest: to_image" in warning


def test_smoothing_of_what_nothing_is_folded_into_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown place of smoothing 'gains'") as err:
        QuantConfig(smooth={"gains": 0.5})  # type: ignore[dict-item]
    assert err.value.nearest == "gain"


def test_blocks_of_four_bits_are_larger_where_they_divide_a_weight() -> None:
    chosen, asked = QuantConfig(block=None), QuantConfig(block=128)
    assert [chosen.block_of("int4-weight", width) for width in (576, 96, 64, 30)] == [64, 32, 64, 32]
    assert chosen.block_of("int8-weight", 576) == 32
    assert asked.block_of("int4-weight", 30) == asked.block_of("int8-weight", 576) == 128


def test_zero_points_are_of_four_bits() -> None:
    for asked in (True, False):
        config = QuantConfig(weight_zero_points=asked)
        assert [config.has_zero_points(one) for one in ("int4-weight", "int8-weight")] == [asked, False]
