"""Whole numbers may be numpy's wherever a caller gives one, and nothing else may pass for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime import SamplingParams, TorchGenerator, image_grid, open_pipeline
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.integers import as_integer
from aigc_runtime.errors import AigcError
from aigc_runtime.generation.schedules import ScheduleConfig, timesteps
from aigc_runtime.generation.tokenizers import ByteTokenizer
from aigc_runtime.opening import open_session
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.text import TextPipeline
from aigc_runtime.proof.bench import bench_step

from .. import toys

KINDS = [np.int64, np.int32, np.uint8, np.uint64]
NONE = [2.0, np.float32(2), True, np.bool_(True), "2", None, np.array([2]), np.array(2), 2j]


def text(**options: Any) -> list[int]:
    pipeline = TextPipeline(toys.lm_session(), toys.TEXT)
    sampling = SamplingParams(temperature=1.0, top_k=options.pop("top_k", 200))
    token_ids: list[int] = pipeline.generate("ab", sampling=sampling, **options)[0].token_ids.tolist()
    return token_ids


CALLS: dict[str, Callable[[Any], object]] = {
    "max_new_tokens": lambda n: text(max_new_tokens=n),
    "text seed": lambda n: text(seed=n, max_new_tokens=4),
    "top_k": lambda n: text(top_k=n, max_new_tokens=8),
    "gan seed": lambda n: GanPipeline(toys.gan_session(), toys.GAN).generate([0], seed=n).tolist(),
    "gan labels": lambda n: GanPipeline(toys.gan_session(), toys.GAN).generate([n]).tolist(),
    "steps": lambda n: DiffusionPipeline(toys.unet_session(), toys.DIFFUSION).generate([0], steps=n).tolist(),
    "batch": lambda n: DiffusionPipeline(toys.unet_session(), toys.DIFFUSION).generate([0, 1], batch=n).tolist(),
    "generator": lambda n: TorchGenerator(n).rand((3,)).tolist(),
    "state": lambda n: toys.lm_session().new_state(n).arrays["past_value_0"].shape,
    "timesteps": lambda n: timesteps(ScheduleConfig(), n).tolist(),
    "columns": lambda n: image_grid(np.zeros((4, 1, 2, 2), np.float32), columns=n).tolist(),
    "scale": lambda n: image_grid(np.zeros((1, 1, 200, 2), np.float32), scale=n).shape,
    "pad": lambda n: image_grid(np.zeros((1, 1, 2, 2), np.float32), pad=n).tolist(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_numpy_integers_are_integers(name: str, kind: type) -> None:
    assert CALLS[name](kind(2)) == CALLS[name](2)


OPTIONAL = ("steps", "batch", "columns")  # None has a meaning


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"gan labels"}))
@pytest.mark.parametrize("value", NONE, ids=repr)
def test_nothing_else_is(name: str, value: object) -> None:
    if value is None and name in OPTIONAL:
        return
    with pytest.raises(AigcError):
        CALLS[name](value)


def test_sessions_and_benches(toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / "toy_gan")
    with open_session(bundle, threads=np.int64(1)) as session:  # type: ignore[arg-type]
        assert bench_step(session, bundle.manifest.pipeline.settings, runs=np.int32(2), warmup=0).runs == 2  # type: ignore[arg-type]
        for runs in (0, 2.5, True, "2"):
            with pytest.raises(AigcError, match=r"runs is .*\nmust be an integer from 1 to"):
                bench_step(session, bundle.manifest.pipeline.settings, runs=runs)  # type: ignore[arg-type]
    for threads in (0, -1, 1.5, True, np.float64(1)):
        with pytest.raises(AigcError, match=r"threads is .*\nmust be an integer from 1 to 1024"):
            open_pipeline(bundle, threads=threads)  # type: ignore[arg-type]


def test_numbers_of_tokens() -> None:
    assert ByteTokenizer(bos=np.int64(256)).encode("h").tolist() == [256, 104]  # type: ignore[arg-type]
    assert SamplingParams(temperature=np.float32(0.5), top_p=np.float64(0.5)).top_k == 0  # type: ignore[arg-type]
    assert type(SamplingParams(top_k=np.uint8(200)).top_k) is int  # type: ignore[arg-type]


def test_what_an_integer_is() -> None:
    assert [as_integer(kind(7)) for kind in KINDS] == [7] * 4
    assert as_integer(2**70) == 2**70
    assert [as_integer(value) for value in NONE] == [None] * len(NONE)
