"""What a recipe is quantized to where nothing is asked for: by its kind, its target and its precisions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aigc_calibration.config import QuantConfig
from aigc_export.recipes.default_quantization import default_quantization, default_samples, site_precisions
from aigc_export.targets.table import get_target
from aigc_export.workloads import get_workload
from aigc_models.sources.shipped import load_shipped

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


def test_three_tenths_of_a_language_model_may_stay_float() -> None:
    text, images = (default_quantization(one, ORT, ["int8"]) for one in (TEXT, IMAGES))
    assert isinstance(text, QuantConfig)
    assert isinstance(images, QuantConfig)
    assert (text.float_share, images.float_share) == (0.3, QuantConfig().float_share)


def samples(precision: str, target: str = "ort-cpu", *, model: str = "lm", **options: Any) -> int:
    program = load_shipped(model)
    workload, found = get_workload(program.kind), get_target(target)
    config = default_quantization(workload, found, [precision], **options)
    assert config is not None
    assert config.samples is None
    return default_samples(config, workload, found, precision, program)


@pytest.mark.parametrize(
    ("model", "precision", "expected"),
    [("lm", "int4", 128), ("lm", "fp16", 32), ("lm", "bf16", 32), ("unet", "int8", 256), ("unet", "fp16", 256)],
)
def test_each_precision_of_a_part_has_its_own_number_of_samples(model: str, precision: str, expected: int) -> None:
    assert samples(precision, model=model) == expected


def test_gains_alone_take_few_samples() -> None:
    found = [
        samples("int8"),
        samples("int8", weight_method="gptq"),
        samples("int4", weight_method="rtn"),
        samples("int8", "tensorrt-rtx"),
    ]
    assert found == [8, 128, 8, 128]
    few = default_quantization(TEXT, ORT, ["int8"])
    assert few is not None
    assert [few.smooths_gains(one) for one in ("int8-weight", "int4-weight", "int8")] == [True, False, False]


@pytest.mark.parametrize(("tile", "expected"), [(16, 32), (64, 32), (96, 14), (224, 8)])
def test_large_tiles_are_fewer(tile: int, expected: int) -> None:
    program: Any = SimpleNamespace(settings=SimpleNamespace(tile=tile))
    upscale = get_workload("upscale")
    assert upscale.samples_for("int8", program) == expected
    assert upscale.samples_for("fp16", program) == 8


def test_a_large_pipeline_takes_half_of_the_prompts() -> None:
    small, large = (SimpleNamespace(parameters=count) for count in (10**8, 10**9))
    prompts = get_workload("text_to_image")
    programs: list[Any] = [small, large]
    found = [prompts.samples_for(precision, one) for precision in ("int8", "fp16") for one in programs]
    assert found == [8, 4, 2, 2]
