"""The diffusion and GAN pipelines on models known by arithmetic."""

from __future__ import annotations

import inspect
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import CancelledError, ConfigError, EngineError, InputError, UnknownNameError
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.samplers import SAMPLERS
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.pipelines import diffusion as diffusion_module
from aigc_runtime.pipelines import limits
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import GanPipeline, draw_latents

from .. import toys

NO_CLASSES = replace(toys.DIFFUSION, num_classes=None, null_class=None, class_names=None)


class Recorder:
    """The toy UNet, which remembers what it was fed."""

    def __init__(self, dims: tuple[DimSpec, ...] = toys.IMAGE_DIMS) -> None:
        self.calls: list[dict[str, Array]] = []
        self.session = ArraySession(self, Interface(inputs=toys.UNET_INPUTS, outputs=toys.UNET_OUTPUTS, dims=dims))

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        self.calls.append({name: array.copy() for name, array in values.items()})
        return toys.unet_function(values)


@pytest.fixture
def diffusion() -> DiffusionPipeline:
    return DiffusionPipeline(toys.unet_session(), toys.DIFFUSION)


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_seed_same_picture(name: str, diffusion: DiffusionPipeline) -> None:
    first = diffusion.generate([0, 1, 2], steps=3, sampler=name, seed=5)
    assert first.shape == (3, 1, 4, 4)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(diffusion.generate([0, 1, 2], steps=3, sampler=name, seed=5), first)
    assert np.abs(diffusion.generate([0, 1, 2], steps=3, sampler=name, seed=6) - first).max() > 0.01


def test_the_noise_is_that_of_the_seed_and_the_steps_those_of_the_schedule() -> None:
    recorder = Recorder()
    DiffusionPipeline(recorder.session, toys.DIFFUSION).generate([2, 0], steps=4, seed=9)
    np.testing.assert_array_equal(recorder.calls[0]["sample"], TorchGenerator(9).randn((2, 1, 4, 4)))
    assert [c["timestep"].tolist() for c in recorder.calls] == [[t, t] for t in (750.0, 500.0, 250.0, 0.0)]
    assert all(c["class_labels"].tolist() == [2, 0] for c in recorder.calls)


def test_guidance_extrapolates_from_the_null_class() -> None:
    # Ho & Salimans 2022: with w = 1 the class's own prediction, with w = 0 the null class's.
    pipeline = DiffusionPipeline(toys.unet_session(), replace(toys.DIFFUSION, null_class=0))
    plain = pipeline.generate([2], steps=3, seed=1, guidance_scale=1.0)
    null = pipeline.generate([2], steps=3, seed=1, guidance_scale=0.0)
    np.testing.assert_allclose(null, pipeline.generate([0], steps=3, seed=1), atol=1e-6)
    assert np.abs(plain - null).max() > 0.01
    wide = replace(toys.DIFFUSION, null_class=0, schedule=replace(toys.DIFFUSION.schedule, clip_sample=False))
    free = DiffusionPipeline(toys.unet_session(), wide)
    one_step = {w: free.generate([2], steps=1, seed=1, guidance_scale=w) for w in (0.0, 1.0, 3.0)}
    np.testing.assert_allclose(one_step[3.0], one_step[0.0] + 3 * (one_step[1.0] - one_step[0.0]), rtol=1e-3)


@pytest.mark.parametrize("most", [1, 2, 3, 8, None])
def test_the_engines_batch_limit_changes_no_picture(most: int | None) -> None:
    labels = [0, 1, 2, 0, 1]
    expected = DiffusionPipeline(toys.unet_session(), toys.DIFFUSION).generate(labels, steps=2, guidance_scale=2.0)
    recorder = Recorder((DimSpec(name="batch", max=most),))
    pipeline = DiffusionPipeline(recorder.session, toys.DIFFUSION)
    np.testing.assert_allclose(pipeline.generate(labels, steps=2, guidance_scale=2.0), expected, atol=1e-6)
    if most is not None:
        assert max(len(c["sample"]) for c in recorder.calls) <= most
    latents = TorchGenerator(0).randn((5, 4))
    session = ArraySession(
        toys.gan_function,
        Interface(inputs=toys.GAN_INPUTS, outputs=toys.GAN_OUTPUTS, dims=(DimSpec(name="batch", max=most),)),
    )
    image = GanPipeline(session, toys.GAN).generate(labels, seed=0)
    np.testing.assert_allclose(
        image, toys.gan_function({"latents": latents, "class_labels": np.array(labels)})["image"], atol=1e-7
    )


def test_progress_and_cancellation(diffusion: DiffusionPipeline) -> None:
    seen: list[tuple[int, int]] = []
    diffusion.generate([0], steps=3, progress=lambda step, total: seen.append((step, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(CancelledError, match="cancelled after 2 of 5 steps"):
        diffusion.generate([0], steps=5, progress=lambda *s: seen.append(s), cancel=lambda: len(seen) >= 5)
    assert len(seen) == 5


BAD: list[tuple[dict[str, Any], str]] = [
    ({"class_labels": None}, r"no class labels were given\ngive one per image, from 0 to 2"),
    ({"class_labels": []}, "no class labels were given"),
    ({"class_labels": [3]}, r"class label 3\nmust be from 0 to 2"),
    ({"class_labels": [-1, 0]}, "class label -1\n"),
    ({"class_labels": [0.5]}, "must be a list of integers"),
    ({"class_labels": [True]}, "must be a list of integers"),
    ({"class_labels": ["a"]}, "must be a list of integers"),
    ({"class_labels": [[0], [1, 2]]}, "must be a list of integers"),
    ({"class_labels": [[0]]}, "must be a list of integers"),
    ({"batch": 2}, r"the numbers of images differ: class_labels: 1, batch: 2"),
    ({"batch": 0}, "batch is 0"),
    ({"batch": True}, "batch is True"),
    ({"steps": 0}, r"steps is 0\nmust be an integer from 1 to 1000"),
    ({"steps": 1001}, "steps is 1001"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 2**64}, "seed is"),
    ({"seed": 1.5}, "seed is 1.5"),
    ({"eta": 1.5}, "eta is 1.5"),
    ({"eta": float("nan")}, "eta is nan"),
    ({"eta": 0.5, "sampler": "euler"}, "only 'ddim' takes an eta"),
    ({"guidance_scale": -1}, "guidance_scale is -1"),
    ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
    ({"guidance_scale": "3"}, "guidance_scale is '3'"),
    ({"size": (8, 8)}, r"size is 8 x 8\nthis engine makes images of 4 x 4 only"),
    ({"size": 8}, r"must be \(height, width\)"),
    ({"size": (4, 0)}, "width is 0"),
    ({"encoder_hidden_states": np.zeros((1, 2, 3), np.float32)}, "this model takes none"),
    ({"null_encoder_hidden_states": np.zeros((1, 2, 3), np.float32)}, "this model takes none"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_requests(arguments: dict[str, Any], message: str, diffusion: DiffusionPipeline) -> None:
    with pytest.raises(InputError, match=message):
        diffusion.generate(**{"class_labels": [0], **arguments})


def test_an_unknown_sampler_gives_the_nearest(diffusion: DiffusionPipeline) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown sampler 'dimm'.*\n.*Did you mean 'ddim'"):
        diffusion.generate([0], sampler="dimm")


def test_guidance_needs_a_null_class() -> None:
    pipeline = DiffusionPipeline(toys.unet_session(), replace(toys.DIFFUSION, null_class=None))
    with pytest.raises(InputError, match=r"guidance_scale is 2\n"):
        pipeline.generate([0], guidance_scale=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_engine_that_gives_nonsense_is_named(bad: float) -> None:
    def broken(values: Mapping[str, Array]) -> dict[str, Array]:
        out = toys.unet_function(values)["model_output"]
        out[0, 0, 0, 0] = bad
        return {"model_output": out}

    session = ArraySession(broken, Interface(inputs=toys.UNET_INPUTS, outputs=toys.UNET_OUTPUTS, dims=toys.IMAGE_DIMS))
    with pytest.raises(EngineError, match="NaN or infinity at step 1"):
        DiffusionPipeline(session, toys.DIFFUSION).generate([0])
    cut = ArraySession(
        lambda v: {"model_output": v["sample"][:, :, :2]},
        Interface(inputs=toys.UNET_INPUTS, outputs=toys.UNET_OUTPUTS, dims=toys.IMAGE_DIMS),
    )
    with pytest.raises(EngineError, match=r"gave shape \(1, 1, 2, 4\) for a sample of shape"):
        DiffusionPipeline(cut, toys.DIFFUSION).generate([0])


def test_a_session_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the engine has the inputs \['class_labels', 'latents'\]"):
        DiffusionPipeline(toys.gan_session(), toys.DIFFUSION)
    with pytest.raises(ConfigError, match="this pipeline needs"):
        GanPipeline(toys.unet_session(), toys.GAN)
    with pytest.raises(ConfigError, match=r"'sample' has shape .*, the settings say \['any', 3, 4, 4\]"):
        DiffusionPipeline(toys.unet_session(), replace(toys.DIFFUSION, sample_shape=(3, 4, 4)))
    with pytest.raises(ConfigError, match=r"'latents' has shape"):
        GanPipeline(toys.gan_session(), replace(toys.GAN, latent_size=5))


def cross_session() -> ArraySession:
    inputs = (
        TensorSpec(name="sample", dtype="float32", shape=("batch", 1, "height", "width")),
        TensorSpec(name="timestep", dtype="float32", shape=("batch",)),
        TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "tokens", 2)),
    )
    dims = (
        DimSpec(name="batch"),
        DimSpec(name="height", min=2, max=8, multiple_of=2),
        DimSpec(name="width", min=2, multiple_of=2),
        DimSpec(name="tokens"),
    )
    return ArraySession(
        lambda v: {"model_output": v["sample"] + v["encoder_hidden_states"].mean(axis=(1, 2))[:, None, None, None]},
        Interface(
            inputs=inputs,
            outputs=(TensorSpec(name="model_output", dtype="float32", shape=("batch", 1, "height", "width")),),
            dims=dims,
        ),
    )


def test_cross_attention_and_sizes() -> None:
    settings = replace(toys.DIFFUSION, num_classes=None, null_class=None, class_names=None)
    pipeline = DiffusionPipeline(cross_session(), settings)
    context, null = np.ones((2, 3, 2), np.float32), np.zeros((1, 3, 2), np.float32)
    image = pipeline.generate(
        encoder_hidden_states=context, null_encoder_hidden_states=null, guidance_scale=2.0, size=(8, 6), steps=2
    )
    assert image.shape == (2, 1, 8, 6)
    with pytest.raises(InputError, match=r"height is 10\nmust be 2 to 8, a multiple of 2"):
        pipeline.generate(encoder_hidden_states=context, size=(10, 6))
    with pytest.raises(InputError, match=r"width is 5\nmust be at least 2, a multiple of 2"):
        pipeline.generate(encoder_hidden_states=context, size=(8, 5))
    with pytest.raises(InputError, match="encoder_hidden_states is missing"):
        pipeline.generate()
    with pytest.raises(InputError, match="must be a float32 array"):
        pipeline.generate(encoder_hidden_states=context.astype(np.float64))
    with pytest.raises(InputError, match="give null_encoder_hidden_states"):
        pipeline.generate(encoder_hidden_states=context, guidance_scale=2.0)
    with pytest.raises(InputError, match="must be equal, or 1 in front"):
        pipeline.generate(
            encoder_hidden_states=context,
            null_encoder_hidden_states=np.zeros((1, 4, 2), np.float32),
            guidance_scale=2.0,
        )


def test_gan_pictures() -> None:
    pipeline = GanPipeline(toys.gan_session(), toys.GAN)
    image = pipeline.generate([0, 1], seed=4)
    z = TorchGenerator(4).randn((2, 4))
    expected = np.tanh(z + np.array([[0.0], [0.1]], dtype=np.float32)).reshape(2, 1, 2, 2)
    np.testing.assert_allclose(image, expected, atol=1e-6)
    for arguments, message in (
        ({"class_labels": [3]}, "class label 3\n"),
        ({"seed": -1}, "seed is -1"),
        ({"truncation": 0.0}, "truncation is 0.0"),
        ({"truncation": -1.0}, "truncation is -1.0"),
        ({"truncation": float("nan")}, "truncation is nan"),
        ({"truncation": True}, "truncation is True"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.generate(**{"class_labels": [0], **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [0.01, 0.5, 1.0, 2.0])
def test_truncated_latents_have_the_truncated_normal_distribution(limit: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    z = draw_latents((200, 200), seed=3, truncation=limit)
    assert z.dtype == np.float32
    assert np.abs(z).max() <= limit
    found = stats.kstest(z.ravel().astype(np.float64), stats.truncnorm(-limit, limit).cdf)
    assert found.pvalue > 1e-3
    np.testing.assert_array_equal(z, draw_latents((200, 200), seed=3, truncation=limit))


def test_a_wide_truncation_keeps_the_draw() -> None:
    np.testing.assert_array_equal(
        draw_latents((8, 8), seed=1, truncation=50.0), draw_latents((8, 8), seed=1, truncation=None)
    )


def test_a_session_whose_output_has_other_channels_is_refused_by_what_differs() -> None:
    learned = replace(toys.DIFFUSION, schedule=replace(toys.DIFFUSION.schedule, variance_type="learned_range"))
    with pytest.raises(
        ConfigError, match=r"'model_output' has shape .*, the settings say \['any', 2, 4, 4\]"
    ) as caught:
        DiffusionPipeline(toys.unet_session(), learned)
    assert "export" not in str(caught.value)


def test_a_variance_below_zero_and_a_sample_that_overflows_are_named() -> None:
    outputs = (TensorSpec(name="model_output", dtype="float32", shape=("batch", 2, 4, 4)),)
    schedule = ScheduleConfig(variance_type="learned", clip_sample=False, timestep_spacing="trailing")
    settings = replace(toys.DIFFUSION, schedule=schedule)

    def session(mean: float, variance: float) -> ArraySession:
        def function(values: Mapping[str, Array]) -> dict[str, Array]:
            ones = np.ones_like(values["sample"])
            return {"model_output": np.concatenate([ones * np.float32(mean), ones * np.float32(variance)], axis=1)}

        return ArraySession(function, Interface(inputs=toys.UNET_INPUTS, outputs=outputs, dims=toys.IMAGE_DIMS))

    with pytest.raises(EngineError, match=r"a variance below zero at step 1: -0\.5"):
        DiffusionPipeline(session(0.0, -0.5), settings).generate([0], sampler="ddpm")
    DiffusionPipeline(session(0.0, -0.5), settings).generate([0], sampler="ddim")  # which does not use it
    with pytest.raises(EngineError, match="the sample holds NaN or infinity after step 1"):
        DiffusionPipeline(session(3e38, 0.0), settings).generate([0], sampler="ddim", steps=1)


def test_what_is_too_large_is_refused_before_anything_is_made() -> None:
    recorder = Recorder()
    pipeline = DiffusionPipeline(recorder.session, toys.DIFFUSION)
    labels: Any = np.zeros(1_000_001, dtype=np.int64)
    for ask in (pipeline.generate, pipeline.stream):
        with pytest.raises(InputError, match=r"1,000,001 images are requested\nat most 1,000,000 at once"):
            ask(labels)
    with pytest.raises(InputError, match=r"of shape \[1000000, 3, 64, 64\] .* 12,288,000,000 .*\nat most 268,435,456"):
        limits.check_numbers("the result", (1_000_000, 3, 64, 64))
    gan = GanPipeline(toys.gan_session(), toys.GAN)
    for ask_gan in (gan.generate, gan.stream):
        with pytest.raises(InputError, match="1,000,001 images are requested"):
            ask_gan(labels)
    wide = DiffusionPipeline(wide_session(), NO_CLASSES)
    with pytest.raises(InputError, match=r"a sample of shape \[1, 65536, 65536\] would hold 4,294,967,296 numbers"):
        wide.generate(size=(65536, 65536))
    with pytest.raises(InputError, match=r"the result of shape \[10, 1, 8192, 8192\] .*\n.*stream\(\) gives"):
        wide.generate(batch=10, size=(8192, 8192))
    assert recorder.calls == []


def wide_session() -> ArraySession:
    inputs = (
        TensorSpec(name="sample", dtype="float32", shape=("batch", 1, "height", "width")),
        TensorSpec(name="timestep", dtype="float32", shape=("batch",)),
    )
    return ArraySession(
        lambda v: {"model_output": v["sample"]},
        Interface(
            inputs=inputs,
            outputs=(TensorSpec(name="model_output", dtype="float32", shape=("batch", 1, "height", "width")),),
            dims=tuple(DimSpec(name=name, min=2) for name in ("batch", "height", "width")),
        ),
    )


@pytest.mark.parametrize("truncation", [None, 0.7])
@pytest.mark.parametrize("most", [1, 3, None])
def test_a_gans_images_come_one_by_one_as_they_come_together(most: int | None, truncation: float | None) -> None:
    labels = [i % 3 for i in range(2100)]  # three pieces of latents
    dims = (DimSpec(name="batch", max=most),)
    session = ArraySession(toys.gan_function, Interface(inputs=toys.GAN_INPUTS, outputs=toys.GAN_OUTPUTS, dims=dims))
    pipeline = GanPipeline(session, toys.GAN)
    latents = draw_latents((2100, 4), seed=6, truncation=truncation)
    expected = toys.gan_function({"latents": latents, "class_labels": np.array(labels)})["image"]
    one_by_one = np.stack(list(pipeline.stream(labels, seed=6, truncation=truncation)))
    np.testing.assert_array_equal(one_by_one, pipeline.generate(labels, seed=6, truncation=truncation))
    np.testing.assert_allclose(one_by_one, expected, atol=1e-6)
    if truncation is None:
        np.testing.assert_array_equal(latents, TorchGenerator(6).randn((2100, 4)))


def test_a_stream_takes_memory_for_a_few_images_only() -> None:
    session, settings = wide_session(), NO_CLASSES
    stream = DiffusionPipeline(session, settings).stream(batch=200_000, size=(16, 16), steps=1)
    tracemalloc.start()
    first = [next(stream) for _ in range(200)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(first) == 200
    assert peak < 8e6  # all of them would be 205 MB


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_engine_of_one_batch_size_gets_that_many_rows(guidance: float) -> None:
    inputs = tuple(replace(spec, shape=(8, *spec.shape[1:])) for spec in toys.UNET_INPUTS)
    outputs = tuple(replace(spec, shape=(8, *spec.shape[1:])) for spec in toys.UNET_OUTPUTS)
    rows: list[int] = []

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        rows.append(len(values["sample"]))
        return toys.unet_function(values)

    fixed = DiffusionPipeline(ArraySession(function, Interface(inputs=inputs, outputs=outputs)), toys.DIFFUSION)
    labels = [i % 3 for i in range(16)]
    found = fixed.generate(labels, steps=2, guidance_scale=guidance)
    assert set(rows) == {8}
    expected = DiffusionPipeline(toys.unet_session(), toys.DIFFUSION).generate(labels, steps=2, guidance_scale=guidance)
    np.testing.assert_array_equal(found, expected)


def test_large_samples_go_through_the_engine_a_few_at_a_time() -> None:
    rows: list[int] = []

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        rows.append(len(values["sample"]))
        return {"model_output": values["sample"]}

    wide = wide_session()
    session = ArraySession(function, wide.interface)
    pipeline = DiffusionPipeline(session, NO_CLASSES)
    for side, wanted in ((16, 20), (256, 8), (2048, 2)):  # an engine that takes two rows at least
        rows.clear()
        next(pipeline.stream(batch=20, size=(side, side), steps=1))
        assert rows == [wanted]


def test_an_argument_that_streams_do_not_take_is_named_with_the_nearest(diffusion: DiffusionPipeline) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown argument of stream 'step'\n.*Did you mean 'steps'\?"):
        diffusion.stream([0], step=4)
    taken = set(inspect.signature(DiffusionPipeline.generate).parameters)
    assert set(diffusion_module._ARGUMENTS) == taken - {"self", "class_labels", "progress", "cancel"}
