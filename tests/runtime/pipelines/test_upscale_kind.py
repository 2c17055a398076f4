"""The kind `upscale`: requests that a bundle may not hold are refused, and a seam is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.compare import EXACT_DB
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines import KINDS
from aigc_runtime.pipelines.upscale import UpscalePipeline
from aigc_runtime.proof.bench import bench_generation, bench_step

from .upscale_toys import session, settings

KIND = KINDS["upscale"]


@pytest.fixture
def pipeline() -> UpscalePipeline:
    return UpscalePipeline(session(), settings())


@pytest.mark.parametrize(
    ("request_", "arrays", "message"),
    [
        ({}, (), r"has the arrays \[\]"),
        ({"image": [[0]]}, (), r"has the arrays \[\]"),
        ({"image": [[0]]}, ("image",), "request.image is in the manifest"),
        ({}, ("image", "mask"), r"has the arrays \['image', 'mask'\]"),
        ({"overlap": 6}, ("image",), "overlap is 6"),
        ({"tiles_at_once": 0}, ("image",), "tiles_at_once is 0"),
        ({"seed": 1}, ("image",), "request has 'seed'"),
    ],
)
def test_requests_that_a_bundle_may_not_hold(
    pipeline: UpscalePipeline, request_: dict[str, Any], arrays: tuple[str, ...], message: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        KIND.check_request(pipeline, request_, arrays)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"request.image is uint8 \[4, 4, 3\]"),
        (np.zeros((4, 4), np.float32), r"request.image is float32 \[4, 4\]"),
        (np.full((4, 4, 3), 2, np.float32), "numbers from 2 to 2"),
    ],
)
def test_arrays_that_a_request_may_not_hold(pipeline: UpscalePipeline, image: np.ndarray, message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        KIND.check_arrays(pipeline, {"image": image})


def test_the_metric_is_the_psnr_of_the_picture(pipeline: UpscalePipeline) -> None:
    image = np.random.default_rng(0).random((30, 30, 3), np.float32)
    reference = KIND.replay(pipeline, {"image": image})
    assert KIND.metric.measure(reference, reference) == EXACT_DB
    seam = KIND.metric.measure(reference, KIND.replay(pipeline, {"image": image, "overlap": 0}))
    assert 10 < seam < 60


def test_it_is_timed() -> None:
    assert bench_step(session(), settings(), runs=2, warmup=1).runs == 2
    assert bench_generation(session(), settings(), runs=2).unit == "tile"
