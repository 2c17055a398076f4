"""Generators with styles, noise and without classes, on engines known by arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import AigcError, BundleError, ConfigError, InputError, UnknownNameError
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines.gan import GanPipeline
from aigc_runtime.pipelines.gan_kind import GAN
from aigc_runtime.pipelines.gan_styles import linear_path, spherical_path, truncated_styles
from aigc_runtime.pipelines.settings import GanSettings, StyleSettings

ROLES = {"mapping": "first", "synthesis": "second"}
MEAN = np.array([1, -2, 0.5], np.float32)
SETTINGS = GanSettings(
    latent_size=4,
    sample_shape=(1, 2, 2),
    num_classes=None,
    style=StyleSettings(size=3, layers=4),
    noise_sides=(2,),
)


def w_of(z: Array) -> Array:
    return np.stack([z.sum(1), z[:, 0] * 2, z[:, 1] - z[:, 3]], axis=1).astype(np.float32)


def image_of(ws: Array, noise: Array) -> Array:
    """Every pixel is a layer's sum, with noise."""
    image: Array = (ws.sum(2).reshape(-1, 1, 2, 2) + np.float32(0.1) * noise).astype(np.float32)
    return image


def program(settings: GanSettings = SETTINGS, *, mean: bytes | None = None, most: int = 2) -> OpenProgram:
    assert settings.style is not None
    dims = (DimSpec(name="batch", max=most),)
    z = TensorSpec(name="latents", dtype="float32", shape=("batch", 4))
    w = TensorSpec(name="w", dtype="float32", shape=("batch", 3))
    ws = TensorSpec(name="ws", dtype="float32", shape=("batch", 4, 3))
    noise = TensorSpec(name="noise_0", dtype="float32", shape=("batch", 1, 2, 2))
    image = TensorSpec(name="image", dtype="float32", shape=("batch", 1, 2, 2))

    def second(v: Mapping[str, Array]) -> dict[str, Array]:
        return {"image": image_of(v["ws"], v["noise_0"])}

    sessions = {
        "first": ArraySession(lambda v: {"w": w_of(v["latents"])}, Interface(inputs=(z,), outputs=(w,), dims=dims)),
        "second": ArraySession(second, Interface(inputs=(ws, noise), outputs=(image,), dims=dims)),
    }
    return OpenProgram(sessions, assets={"w_avg.npy": write_npy(MEAN) if mean is None else mean})


@pytest.fixture
def pipeline() -> GanPipeline:
    return GanPipeline(program(), SETTINGS, ROLES)


def noise_of(seed: int, count: int) -> Array:
    generator = TorchGenerator(seed)
    return np.stack([generator.randn((4,)).reshape(1, 2, 2) for _ in range(count)])


def repeated(w: Array) -> Array:
    return np.repeat(w[:, None], 4, axis=1)


def test_styles_are_truncated_towards_their_mean_up_to_a_layer(pipeline: GanPipeline) -> None:
    w = repeated(w_of(TorchGenerator(5).randn((5, 4))))
    noise = noise_of(5, 5)
    np.testing.assert_allclose(pipeline.generate(batch=5, seed=5), image_of(w, noise), atol=1e-6)
    moved = MEAN + 0.7 * (w - MEAN)
    found = pipeline.generate(batch=5, seed=5, truncation=0.7)
    np.testing.assert_allclose(found, image_of(moved, noise), atol=1e-5)
    half = np.concatenate([moved[:, :2], w[:, 2:]], axis=1)
    found = pipeline.generate(batch=5, seed=5, truncation=0.7, truncation_cutoff=2)
    np.testing.assert_allclose(found, image_of(half, noise), atol=1e-5)
    nothing = pipeline.generate(batch=5, seed=5, truncation=0.0, noise_seed=1)
    np.testing.assert_allclose(nothing, image_of(repeated(MEAN[None]), noise_of(1, 5)), atol=1e-6)


def test_styles_latents_and_noise_may_be_given(pipeline: GanPipeline) -> None:
    z = np.arange(12, dtype=np.float32).reshape(3, 4) / 10
    noise = noise_of(0, 3)
    np.testing.assert_allclose(pipeline.generate(latents=z), image_of(repeated(w_of(z)), noise), atol=1e-6)
    w = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_allclose(pipeline.generate(ws=w), image_of(repeated(w), noise), atol=1e-6)
    ws = np.arange(36, dtype=np.float32).reshape(3, 4, 3)
    np.testing.assert_allclose(pipeline.generate(ws=ws), image_of(ws, noise), atol=1e-6)
    same = pipeline.generate(ws=ws, same_noise=True)
    np.testing.assert_allclose(same, image_of(ws, np.repeat(noise[:1], 3, axis=0)), atol=1e-6)


def test_later_layers_take_the_styles_of_another_seed(pipeline: GanPipeline) -> None:
    a, b = (repeated(w_of(TorchGenerator(seed).randn((3, 4)))) for seed in (1, 2))
    expected = image_of(np.concatenate([a[:, :3], b[:, 3:]], axis=1), noise_of(1, 3))
    np.testing.assert_allclose(pipeline.generate(batch=3, seed=1, mix_seed=2, mix_from=3), expected, atol=1e-6)


def test_a_path_ends_at_the_images_of_its_seeds(pipeline: GanPipeline) -> None:
    ends = [pipeline.generate(seed=seed, noise_seed=3)[0] for seed in (3, 9)]
    for space in ("z", "w"):
        path = list(pipeline.interpolate([3, 9], 5, space=space))
        np.testing.assert_allclose([path[0], path[-1]], ends, atol=1e-5)
    w = [w_of(TorchGenerator(seed).randn((1, 4)))[0] for seed in (3, 9)]
    middle = image_of(repeated(((w[0] + w[1]) / 2)[None]), noise_of(3, 1))[0]
    np.testing.assert_allclose(list(pipeline.interpolate([3, 9], 5))[2], middle, atol=1e-5)  # styles are the default
    truncated = list(pipeline.interpolate([3, 9], 3, truncation=0.0))
    np.testing.assert_allclose(truncated[1], image_of(repeated(MEAN[None]), noise_of(3, 1))[0], atol=1e-5)


def test_paths_are_those_of_their_formulas() -> None:
    a, b = np.array([3.0, 0.0], np.float32), np.array([0.0, 3.0], np.float32)
    angles = np.linspace(0, np.pi / 2, 4)
    circle = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(spherical_path(np.stack([a, b]), 4), circle, atol=1e-6)
    there_and_back = linear_path(np.stack([a, b, a]), 5)
    np.testing.assert_allclose(there_and_back, np.stack([a, (a + b) / 2, b, (a + b) / 2, a]), atol=1e-6)
    np.testing.assert_allclose(spherical_path(np.stack([a, 2 * a]), 3), [a, 1.5 * a, 2 * a], atol=1e-6)
    np.testing.assert_allclose(spherical_path(np.stack([a, -a]), 3)[[0, 2]], [a, -a], atol=1e-6)
    ws = np.ones((1, 4, 3), np.float32)
    assert truncated_styles(ws, MEAN, 1.0) is ws


BAD: list[tuple[dict[str, Any], str]] = [
    ({"truncation": 2.1}, r"truncation is 2.1\nmust be a number from -2 to 2"),
    ({"truncation": float("nan")}, "truncation is nan"),
    ({"truncation_cutoff": 5}, "truncation_cutoff is 5\nmust be an integer from 0 to 4"),
    ({"ws": np.zeros((2, 4, 5), np.float32)}, r"ws is float32 \[2, 4, 5\]\nmust be float32 \[N, 3\] or \[N, 4, 3\]"),
    ({"ws": np.full((1, 3), np.nan, np.float32)}, "ws holds NaN"),
    ({"latents": np.zeros((1, 5), np.float32)}, r"must be float32 \[N, 4\]"),
    ({"latents": np.zeros((1, 4), int)}, "latents is int64"),
    ({"latents": np.zeros((1, 4)), "ws": np.zeros((1, 3))}, "latents and ws were given"),
    ({"latents": np.zeros((2, 4)), "batch": 3}, "the numbers of images differ: latents: 2, batch: 3"),
    ({"class_labels": [0]}, "class labels were given\nthis model takes none"),
    ({"mix_seed": 1}, "mix_seed is 1, mix_from is None"),
    ({"mix_seed": 1, "mix_from": 1, "ws": np.zeros((1, 3))}, "mix_seed and ws were given"),
    ({"batch": 0}, "batch is 0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_requests(arguments: dict[str, Any], message: str, pipeline: GanPipeline) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.generate(**arguments)


def test_bad_paths(pipeline: GanPipeline) -> None:
    for arguments, message in (
        (([1], 3), "give two or more"),
        (([1, 2, 3], 2), "frames is 2 for 3 seeds"),
        (([1, -2], 3), "seed is -2"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.interpolate(*arguments)
    with pytest.raises(UnknownNameError, match="unknown space"):
        pipeline.interpolate([1, 2], 3, space="y")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="argument of stream"):
        pipeline.stream(psi=1)


def test_engines_and_settings_that_do_not_belong_together() -> None:
    with pytest.raises(ConfigError, match=r"a gan pipeline with engines for mapping\nit needs: model or mapping, syn"):
        GanPipeline(program(), SETTINGS, {"mapping": "first"})
    with pytest.raises(ConfigError, match="the settings have no style, the engines are mapping, synthesis"):
        GanPipeline(program(), replace(SETTINGS, style=None), ROLES)
    with pytest.raises(ConfigError, match=r"'ws' has shape .*, the settings say \['any', 5, 3\]"):
        GanPipeline(program(), replace(SETTINGS, style=StyleSettings(size=3, layers=5)), ROLES)
    with pytest.raises(ConfigError, match=r"the engine has the inputs \['noise_0', 'ws'\]"):
        GanPipeline(program(), replace(SETTINGS, noise_sides=()), ROLES)
    silent = replace(SETTINGS, noise_sides=(3,))
    with pytest.raises(ConfigError, match="'noise_0' has shape"):
        GanPipeline(program(), silent, ROLES)


@pytest.mark.parametrize("mean", [b"no array", write_npy(np.zeros(4, np.float32)), write_npy(MEAN * np.nan)])
def test_a_damaged_mean_is_named(mean: bytes) -> None:
    with pytest.raises(BundleError, match=r"w_avg\.npy"):
        GanPipeline(program(mean=mean), SETTINGS, ROLES)


def test_requests_of_a_bundle(pipeline: GanPipeline) -> None:
    assert GAN.assets(SETTINGS) == ["w_avg.npy"]
    (form,) = GAN.check_request(pipeline, {"batch": 3, "truncation": -1.0}, ()).values()
    assert form.shape == (3, 1, 2, 2)
    assert form.fits(GAN.replay(pipeline, {"batch": 3, "truncation": -1.0})["images"])
    GAN.check_request(pipeline, {"batch": 2}, ("ws",))
    GAN.check_arrays(pipeline, {"ws": np.zeros((2, 3), np.float32)})
    GAN.step(pipeline)()
    GAN.generate_once(pipeline)
    for request, arrays, message in (
        ({"truncation": 3.0}, (), r"request\.truncation"),
        ({"class_labels": [0]}, (), "num_classes is null"),
        ({"ws": [1.0]}, (), "must be in a .npy file"),
        ({"psi": 1}, (), "has 'psi'"),
        ({}, ("ws",), "does not say for how many images"),
    ):
        with pytest.raises(AigcError, match=message):
            GAN.check_request(pipeline, request, arrays)
    with pytest.raises(ConfigError, match="holds NaN"):
        GAN.check_arrays(pipeline, {"ws": np.full((2, 3), np.nan, np.float32)})
