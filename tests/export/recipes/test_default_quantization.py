"""What a recipe is quantized to where nothing is asked for: by its kind, its target and its precisions."""

from __future__ import annotations

import pytest

from aigc_calibration.config import QuantConfig
from aigc_export.recipes.default_quantization import default_quantization, site_precisions
from aigc_export.targets.table import get_target
from aigc_export.workloads import get_workload

TEXT, IMAGES, ORT = get_workload("text"), get_workload("diffusion"), get_target("ort-cpu")


@pytest.mark.parametrize(
    ("target", "precisions", "sites"),
    [
        ("ort-cpu", ["fp32"], ()),
        ("ort-cpu", ["int8"], ("int8-weight",)),
        ("tensorrt-rtx", ["int8"], ("int8",)),
        ("ort-cpu", ["fp16", "int4", "fp16"], ("fp16", "int4-weight")),
        ("ort-cpu", ["auto"], ("int8-weight", "int4-weight")),
    ],
)
def test_what_sites_of_a_language_model_may_get(target: str, precisions: list[str], sites: tuple[str, ...]) -> None:
    assert site_precisions(TEXT, get_target(target), precisions) == sites


def test_images_keep_activations_in_8_bits() -> None:
    assert site_precisions(IMAGES, get_target("ort-cpu"), ["int8"]) == ("int8",)
    assert site_precisions(IMAGES, get_target("ort-cpu"), ["auto"]) == ("int8", "int4-weight", "int8-weight")


def test_weights_of_8_bits_are_fitted_to_samples_where_that_gains_something() -> None:
    text, images = (default_quantization(one, ORT, ["int4"]) for one in (TEXT, IMAGES))
    assert isinstance(text, QuantConfig)
    assert isinstance(images, QuantConfig)
    assert [text.method_for(one) for one in ("int8-weight", "int4-weight")] == ["rtn", "gptq"]
    assert [images.method_for(one) for one in ("int8-weight", "int4-weight")] == ["gptq", "gptq"]
    assert default_quantization(TEXT, ORT, ["fp32", "fp32"]) is None


def test_the_samples_are_those_of_the_lowest_precision() -> None:
    found = default_quantization(TEXT, ORT, ["fp16", "int4"])
    assert found is not None
    assert found.samples == TEXT.samples_for("int4") != TEXT.samples_for("fp16")


def test_gains_alone_take_few_samples() -> None:
    few = default_quantization(TEXT, ORT, ["int8"])
    fitted = default_quantization(TEXT, ORT, ["int8"], weight_method="gptq")
    nearest = default_quantization(TEXT, ORT, ["int4"], weight_method="rtn")
    compiled = default_quantization(TEXT, get_target("tensorrt-rtx"), ["int8"])
    found = [one.samples for one in (few, fitted, nearest, compiled) if one is not None]
    assert found == [8, 128, 8, 128]
    assert few is not None
    assert [few.smooths_gains(one) for one in ("int8-weight", "int4-weight", "int8")] == [True, False, False]
