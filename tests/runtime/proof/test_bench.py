"""The benchmark times what it says."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.proof.bench import bench_generation, bench_speeds, bench_step

from .. import toys


def slow_gan(seconds: float) -> ArraySession:
    def function(values):  # type: ignore[no-untyped-def]
        time.sleep(seconds)
        return toys.gan_function(values)

    return ArraySession(function, Interface(inputs=toys.GAN_INPUTS, outputs=toys.GAN_OUTPUTS, dims=toys.IMAGE_DIMS))


def test_a_slow_engine_is_seen_as_slow() -> None:
    step = bench_step(slow_gan(0.02), toys.GAN, runs=3, warmup=1)
    assert step.p10_ms >= 20
    assert step.runs == 3
    whole = bench_generation(slow_gan(0.02), toys.GAN, runs=2)
    assert whole.per_unit.median_ms >= 20
    assert whole.python_share < 0.5
    assert (whole.unit, whole.units) == ("image", 1)


def test_units_follow_the_family() -> None:
    assert bench_generation(toys.lm_session(), toys.TEXT, runs=1).unit == "token"
    whole = bench_generation(toys.unet_session(), toys.DIFFUSION, runs=1)
    assert (whole.unit, whole.units) == ("step", 4)
    assert whole.python_share > 0.1


def test_a_language_model_tells_how_fast_it_reads_and_writes() -> None:
    def function(values):  # type: ignore[no-untyped-def]
        time.sleep(0.02 if values["input_ids"].shape[1] > 1 else 0.005)
        return toys.lm_function(values)

    session = ArraySession(function, toys.lm_session().interface)
    found = bench_speeds(session, toys.TEXT, runs=2)
    assert found.keys() == {"prompt_tokens", "prefill_ms", "decode_tokens_per_second"}
    assert found["prompt_tokens"] == 16
    assert found["prefill_ms"] >= 20
    assert 10 < found["decode_tokens_per_second"] <= 200
    assert bench_speeds(toys.gan_session(), toys.GAN, runs=1) == {}


def test_an_engine_that_holds_less_than_the_context_is_timed_within_it() -> None:
    interface = toys.lm_session().interface
    fed = list[int]()

    def function(values):  # type: ignore[no-untyped-def]
        fed.append(values["input_ids"].shape[1])
        return toys.lm_function(values)

    dims = [dataclasses.replace(dim, max=8) if dim.name == "past" else dim for dim in interface.dims]
    session = ArraySession(function, interface.with_dims(dims))
    whole = bench_generation(session, toys.TEXT, runs=1)
    assert whole.units == 8  # the last token is not read
    assert fed == [1] * 16
    assert bench_speeds(session, toys.TEXT, runs=1)["prompt_tokens"] == 4
    assert bench_step(session, toys.TEXT, runs=20).runs == 20


def test_a_text_that_would_end_is_timed_to_its_end() -> None:
    ends = dataclasses.replace(toys.TEXT, eos_token_ids=tuple(range(256)))
    runs = list[int]()

    def function(values):  # type: ignore[no-untyped-def]
        runs.append(1)
        return toys.lm_function(values)

    whole = bench_generation(ArraySession(function, toys.lm_session().interface), ends, runs=1)
    assert len(runs) == 2 * whole.units


def test_a_long_benchmark_of_a_short_context_starts_over() -> None:
    assert bench_step(toys.lm_session("buffer"), toys.TEXT, runs=60).runs == 60


@pytest.mark.parametrize("runs", [0, -1, True])
def test_runs_must_be_positive(runs: int) -> None:
    with pytest.raises(InputError, match="runs is"):
        bench_step(toys.gan_session(), toys.GAN, runs=runs)


def test_a_vocabulary_of_few_tokens_is_timed() -> None:
    few = toys.lm_session().interface
    few = replace(
        few,
        inputs=(replace(few.inputs[0], high=50), *few.inputs[1:]),
        outputs=(replace(few.outputs[0], shape=("batch", "kept", 50)),),
    )

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        results = toys.lm_function(values)
        return {**results, "logits": results["logits"][..., :50]}

    settings = replace(toys.TEXT, tokenizer=TokenizerInfo(kind="none"), vocab_size=50)
    assert bench_step(ArraySession(function, few), settings, runs=2).runs == 2
    assert bench_generation(ArraySession(function, few), settings, runs=1).unit == "token"
