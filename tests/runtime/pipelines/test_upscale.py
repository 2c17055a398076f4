"""Pictures of any size and kind through tiles: what the whole picture would have given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.tensors import Array, DimSpec
from aigc_runtime.errors import CancelledError, ConfigError, EngineError, InputError
from aigc_runtime.pipelines import upscale
from aigc_runtime.pipelines.upscale import UpscalePipeline

from .upscale_toys import RADIUS, SCALE, TILE, session, settings, whole


def picture(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape, np.float32)


def pipeline(**changes: Any) -> UpscalePipeline:
    return UpscalePipeline(session(channels=changes.get("channels", 3)), settings(**changes))


@pytest.mark.parametrize("size", [(12, 12), (13, 40), (41, 25), (12, 100), (33, 12)])
@pytest.mark.parametrize("overlap", [None, RADIUS + 1, 5])
def test_tiles_are_the_whole_picture(size: tuple[int, int], overlap: int | None) -> None:
    image = picture(*size, 3)
    found = pipeline().generate(image, overlap=overlap)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole(image), rtol=0, atol=1e-6)


def test_with_less_overlap_than_a_pixel_reaches_there_is_a_seam() -> None:
    image = picture(30, 30, 3)
    assert np.abs(pipeline().generate(image, overlap=RADIUS - 1) - whole(image)).max() > 1 / 255


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (5, 7), (11, 13), (12, 3)])
def test_below_a_tile_the_picture_is_reflected(size: tuple[int, int]) -> None:
    image = picture(*size, 3)
    h, w = size
    filled = np.pad(image, ((0, max(0, TILE - h)), (0, max(0, TILE - w)), (0, 0)), "reflect")
    expected = whole(filled)[: SCALE * h, : SCALE * w]
    np.testing.assert_allclose(pipeline().generate(image), expected, rtol=0, atol=1e-6)


def test_sides_are_filled_up_to_a_multiple() -> None:
    image = picture(14, 30, 3)
    filled = np.pad(image, ((0, 2), (0, 2), (0, 0)), "reflect")  # 16 x 32
    found = pipeline(multiple_of=4, overlap=4).generate(image)
    np.testing.assert_allclose(found, whole(filled)[: SCALE * 14, : SCALE * 30], rtol=0, atol=1e-6)


def test_eight_bits_are_rounded_and_cut() -> None:
    image = (picture(20, 17, 3) * 255).astype(np.uint8)
    expected = np.rint(whole(image.astype(np.float32) / 255) * 255)
    found = pipeline().generate(image)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 1  # where rounding meets a half
    assert (found != expected).mean() < 1e-3
    # A model that overshoots is cut, not wrapped round.
    bright = ArraySession(lambda v: {"large_image": 3 * v["image"].repeat(3, 2).repeat(3, 3) - 1}, session().interface)
    assert set(np.unique(UpscalePipeline(bright, settings()).generate(np.full((4, 4, 3), 200, np.uint8)))) == {255}
    assert set(np.unique(UpscalePipeline(bright, settings()).generate(np.full((4, 4, 3), 2, np.uint8)))) == {0}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["gray", "gray and alpha", "rgb", "rgba"])
def test_every_kind_of_picture_through_every_model(channels: int, kind: str) -> None:
    image = picture(15, 19, ("gray", "gray and alpha", "rgb", "rgba").index(kind) + 1)
    found = pipeline(channels=channels).generate(image)
    np.testing.assert_allclose(found, whole(image), rtol=0, atol=1e-6)  # the toy treats channels alike
    if kind == "gray":
        flat = pipeline(channels=channels).generate(image[:, :, 0])
        np.testing.assert_array_equal(flat, found[:, :, 0])


def test_gray_is_the_mean_of_what_colors_become() -> None:
    factors = np.array([0.5, 1, 1.2], np.float32).reshape(1, 3, 1, 1)
    tinted = ArraySession(
        lambda v: {"large_image": factors * v["image"].repeat(3, 2).repeat(3, 3)}, session().interface
    )
    found = UpscalePipeline(tinted, settings()).generate(np.full((13, 13), 0.5, np.float32))
    np.testing.assert_allclose(found, 0.45, rtol=1e-6)


def test_constant_alpha_stays_that_and_costs_nothing() -> None:
    image = np.concatenate([picture(15, 19, 3), np.full((15, 19, 1), 0.25, np.float32)], axis=2)
    counts: list[int] = []
    found = pipeline().generate(image, progress=lambda _, total: counts.append(total))
    assert (found[..., 3] == np.float32(0.25)).all()  # an edge would have darkened it
    plain: list[int] = []
    pipeline().generate(image[..., :3], progress=lambda _, total: plain.append(total))
    assert counts == plain


def test_the_engines_own_range() -> None:
    image = picture(20, 13, 3)
    seen: list[Array] = []

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        seen.append(values["image"])
        return {"large_image": values["image"].repeat(3, 2).repeat(3, 3)}

    found = UpscalePipeline(ArraySession(run, session().interface), settings(value_range=(-1.0, 1.0))).generate(image)
    np.testing.assert_allclose(found, image.repeat(3, 0).repeat(3, 1), rtol=0, atol=1e-6)
    assert min(x.min() for x in seen) < -0.9
    assert max(x.max() for x in seen) > 0.9


@pytest.mark.parametrize(
    ("rows", "asked", "runs"),
    [
        (DimSpec(name="batch", max=4), None, {1, 2, 3, 4}),
        (DimSpec(name="batch", max=4), 1, {1}),
        (DimSpec(name="batch", max=4), 9, {1, 2, 3, 4}),
        (DimSpec(name="batch", min=2, max=3), None, {2, 3}),
        (5, None, {5}),
    ],
)
def test_tiles_go_through_the_engine_together(rows: DimSpec | int, asked: int | None, runs: set[int]) -> None:
    inner = session(rows=rows)
    sizes: list[int] = []

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        sizes.append(len(values["image"]))
        return inner.run(values)

    image = picture(40, 50, 4)
    made = UpscalePipeline(ArraySession(run, inner.interface), settings())
    np.testing.assert_allclose(made.generate(image, tiles_at_once=asked), whole(image), rtol=0, atol=1e-6)
    assert set(sizes) <= runs
    assert max(sizes) == max(runs)


def test_bands_are_the_picture_and_one_row_of_tiles_each() -> None:
    image = picture(100, 30, 3)
    bands = list(pipeline().stream(image))
    assert max(map(len, bands)) <= SCALE * TILE
    np.testing.assert_array_equal(np.concatenate(bands), pipeline().generate(image))


def test_progress_and_cancel() -> None:
    told: list[tuple[int, int]] = []
    image = picture(28, 28, 3)
    pipeline().generate(image, tiles_at_once=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 9) for n in range(1, 10)]
    asked = iter([False, False, True])
    with pytest.raises(CancelledError, match="cancelled after 2 of 9 tiles"):
        pipeline().generate(image, tiles_at_once=1, cancel=lambda: next(asked))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[1]], "the image is a list"),
        (np.zeros((4, 4, 5), np.uint8), r"uint8 \[4, 4, 5\]"),
        (np.zeros((4,), np.uint8), r"uint8 \[4\]"),
        (np.zeros((4, 4, 3), np.int64), r"int64 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"no pixels: its shape is \[0, 4, 3\]"),
        (np.full((4, 4), 255, np.float32), "numbers from 255 to 255"),
        (np.full((4, 4), np.nan, np.float32), "numbers from nan to nan"),
        (np.broadcast_to(np.uint8(0), (1, 10**9)), "fits into no file"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipeline().generate(image)


@pytest.mark.parametrize("overlap", [-1, 6, 1.5, True, "2"])
def test_an_overlap_that_leaves_nothing_of_a_tile_is_refused(overlap: Any) -> None:
    with pytest.raises(InputError, match=r"overlap is .*") as err:
        pipeline().generate(picture(4, 4, 3), overlap=overlap)
    assert "from 0 to 5: a tile is 12 pixels wide" in err.value.hint


def test_a_result_beyond_memory_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscale, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"the result of shape \[60, 60, 3\] takes") as err:
        pipeline().generate(picture(20, 20, 3))
    assert "stream()" in err.value.hint
    assert sum(len(band) for band in pipeline().stream(picture(20, 20, 3))) == 60


def test_nan_is_told() -> None:
    broken = ArraySession(
        lambda v: {"large_image": np.full((len(v["image"]), 3, 36, 36), np.nan, np.float32)}, session().interface
    )
    with pytest.raises(EngineError, match="the model gave NaN"):
        UpscalePipeline(broken, settings()).generate(picture(4, 4, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlap": 6}, "overlap is 6"),
        ({"overlap": -1}, "overlap is -1"),
        ({"tile": 10, "multiple_of": 4}, "tile is 10"),
        ({"channels": 2}, "channels is 2"),
        ({"scale": 0}, "scale is 0"),
        ({"value_range": (1.0, 0.0)}, r"value_range is \[1.0, 0.0\]"),
        ({"value_range": (0.0, float("inf"))}, "value_range is"),
    ],
)
def test_settings_that_are_none(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        settings(**changes)


@pytest.mark.parametrize("changes", [{"tile": 13}, {"scale": 2}, {"channels": 1}])
def test_settings_and_engine_must_belong_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the settings say"):
        UpscalePipeline(session(), dataclasses.replace(settings(), **changes))


def test_a_pipeline_closes_its_program() -> None:
    with pipeline() as made:
        made.generate(picture(4, 4, 3))
    with pytest.raises(EngineError):
        made.generate(picture(4, 4, 3))
