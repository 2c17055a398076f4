"""What each family is calibrated on: seeded, finite, the right counts, and the same again."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from aigc_calibration.data import CalibrationData, DiffusionData, GanData, ImageData, TextData
from aigc_calibration.errors import CalibrationError
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.schedules import alphas_cumprod
from aigc_runtime.pipelines.gan import draw_latents

from ..families import (
    NULL,
    WIDTH,
    gan_graph,
    gan_subject,
    text_graph,
    text_subject,
    unet_graph,
    unet_subject,
)

TOKENS = np.arange(3000) % 251
IMAGES = np.random.default_rng(0).uniform(-1, 1, (20, 1, 2, 2)).astype(np.float32)
PROMPTS = np.random.default_rng(1).standard_normal((6, 3, WIDTH)).astype(np.float32)


def all_rows(data: CalibrationData, graph: ir.Model) -> dict[str, Array]:
    batches = list(data.batches(graph, threads=1))
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def make(name: str, seed: int, samples: int = 24) -> tuple[CalibrationData, ir.Model]:
    common: dict[str, Any] = {"samples": samples, "seed": seed}
    unet = unet_subject()
    made: dict[str, tuple[CalibrationData, ir.Model]] = {
        "text": (TextData(subject=text_subject(), tokens=TOKENS, **common), text_graph()),
        "diffusion": (DiffusionData(subject=unet, **common), unet_graph()),
        "prompts": (
            DiffusionData(subject=unet_subject(classes=None, context=True), context=PROMPTS, **common),
            unet_graph(),
        ),
        "images": (ImageData(subject=unet, images=IMAGES, labels=np.arange(20) % 4, **common), unet_graph()),
        "gan": (GanData(subject=gan_subject(), **common), gan_graph()),
    }
    return made[name]


@pytest.mark.parametrize("name", ["text", "diffusion", "prompts", "images", "gan"])
def test_the_same_again_other_seeds_others_and_as_many_as_told(name: str) -> None:
    data, graph = make(name, 0)
    first = list(data.batches(graph, threads=1))
    digests = []
    for seed in (0, 0, 1, 2):
        other, _ = make(name, seed)
        digests.append(b"".join(b[k].tobytes() for b in other.batches(graph, threads=1) for k in sorted(b)))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert data.samples == 24
    assert sum(len(next(iter(b.values()))) for b in first) == data.rows == (120 if name == "text" else 24)
    assert all(np.isfinite(a).all() for b in first for a in b.values())


# Text


def test_a_window_is_a_prompt_and_tokens_behind_a_filled_cache() -> None:
    data = TextData(subject=text_subject(), tokens=TOKENS, samples=5, length=40, decode_steps=3, batch=2)
    batches = list(data.batches(text_graph(), threads=1))
    assert (data.window, data.rows, len(batches)) == (40, 20, 12)
    shapes = [(b["input_ids"].shape, b["past_key"].shape) for b in batches[:4]]
    assert shapes == [((2, 37), (2, 0, 1)), ((2, 1), (2, 37, 1)), ((2, 1), (2, 38, 1)), ((2, 1), (2, 39, 1))]
    for first in range(0, 12, 4):
        last = batches[first + 3]
        window = np.concatenate([last["past_key"][:, :, 0].astype(np.int64), last["input_ids"]], axis=1)
        assert (np.diff(window, axis=1) % 251 == 1).all()  # 40 tokens of the text, in order
        np.testing.assert_array_equal(batches[first]["input_ids"], window[:, :37])
    assert all((b["pad_length"] == 0).all() for b in batches)


def test_windows_cover_the_text() -> None:
    tokens = np.minimum(np.arange(200_000) // 1000, 255)
    data = TextData(subject=text_subject(), tokens=tokens, samples=50, length=8)
    starts = np.concatenate(
        [b["input_ids"][:, 0] for b in data.batches(text_graph(), threads=1) if b["input_ids"].shape[1] > 1]
    )
    assert np.diff(np.sort(starts)).max() <= 8  # of 200 stretches, one window in every four
    assert abs(int(starts[::2].astype(int).sum()) - int(starts[1::2].astype(int).sum())) < 25 * 8  # and so both halves


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.arange(100) % 9, "has 100 tokens"),
        (np.zeros(3000, np.int64), "one token over and over"),
        (np.arange(3000), "token ids from 0 to 2999"),
    ],
)
def test_text_that_cannot_be_used(tokens: Array, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        TextData(subject=text_subject(), tokens=tokens)
    assert "expected text of at least 192 tokens from 0 to 255" in caught.value.hint


# Diffusion


def counts(values: Array, of: int) -> Array:
    return np.bincount(values.astype(np.int64), minlength=of)


@pytest.mark.parametrize("samples", [16, 256, 601])
def test_points_are_spread_over_steps_classes_and_branches(samples: int) -> None:
    data = DiffusionData(subject=unet_subject(), samples=samples)
    rows = all_rows(data, unet_graph())
    labels, step = rows["class_labels"], rows["timestep"].astype(int) // 20
    assert np.ptp(counts(step, 50)) <= 1
    without = labels == NULL
    assert abs(int(without.sum()) * 2 - samples) <= 1
    assert np.ptp(counts(labels[~without], 4)) <= 1
    # Both halves: in even and in odd places.
    for half in (rows["timestep"][::2], rows["timestep"][1::2]):
        assert np.ptp(counts(half // 100, 10)) <= max(4, 0.1 * samples)
    if samples > 16:
        assert abs(int(without[::2].sum()) - int(without[1::2].sum())) <= 1


def test_every_timestep_can_occur() -> None:
    rows = all_rows(DiffusionData(subject=unet_subject(), samples=256), unet_graph())
    assert len(np.unique(rows["timestep"])) > 150
    short = all_rows(DiffusionData(subject=unet_subject(timesteps=120), samples=600), unet_graph())
    assert set(short["timestep"].astype(int)) == set(range(120))


def test_points_lie_on_trajectories() -> None:
    # eps = x makes x_0 = x (1 - sigma) / alpha, clipped: DDIM of one step less noise follows by hand.
    data = DiffusionData(subject=unet_subject(classes=None, timesteps=4), samples=40, steps=4, batch=7)
    rows = all_rows(data, unet_graph(factor=1.0))
    a = alphas_cumprod(unet_subject(timesteps=4).settings.schedule)  # type: ignore[union-attr]
    start = {t: rows["sample"][rows["timestep"] == t] for t in range(4)}
    assert [len(start[t]) for t in range(4)] == [10] * 4
    assert abs(float(start[3].std()) - 1) < 0.4
    for sample, t in zip(rows["sample"], rows["timestep"].astype(int), strict=True):
        if t == 3:
            continue
        # Every later point is sqrt(a) x_0 + sqrt(1 - a) eps with |x_0| <= 1 of a trajectory that began at eps = x.
        assert np.abs(sample).max() <= np.sqrt(a[t]) + 5 * np.sqrt(1 - a[t])


def test_prompts_take_the_place_of_classes() -> None:
    subject = unet_subject(classes=None, context=True)
    data = DiffusionData(subject=subject, context=PROMPTS, null_context=PROMPTS[:1] * 0 + 9, samples=60)
    rows = all_rows(data, unet_graph())["encoder_hidden_states"]
    used = [int(np.flatnonzero((r == PROMPTS).all(axis=(1, 2)))[0]) if (r != 9).any() else -1 for r in rows]
    assert counts(np.array(used) + 1, 7).tolist() == [30] + [5] * 6
    unguided = all_rows(DiffusionData(subject=subject, context=PROMPTS, samples=60), unet_graph())
    assert {r.tobytes() for r in unguided["encoder_hidden_states"]} == {p.tobytes() for p in PROMPTS}


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (None, "takes encoder_hidden_states"),
        (PROMPTS * np.nan, "holds NaN"),
        (PROMPTS[:0], "have shapes"),
        (PROMPTS[:, :0], "is empty"),
        (PROMPTS[0], "rank 2"),
        (PROMPTS[:, :, :4], "size 4"),
        (PROMPTS.astype(np.int64), "int64"),
        (PROMPTS.astype(np.float64), "float64"),
        (PROMPTS * 0 + 1, "one constant"),
        (PROMPTS * np.float32(1e20), "values from"),
    ],
)
def test_prompts_that_cannot_be_used(context: Array | None, message: str) -> None:
    with pytest.raises(CalibrationError, match=message) as caught:
        DiffusionData(subject=unet_subject(classes=None, context=True), context=context)
    assert "encoder_hidden_states float32 [batch, tokens, 5] -1e+06 to 1e+06" in caught.value.hint


def test_prompts_for_a_model_that_takes_none() -> None:
    with pytest.raises(CalibrationError, match="takes no encoder_hidden_states") as caught:
        DiffusionData(subject=unet_subject(), context=PROMPTS)
    assert "sample float32 [batch, 1, 2, 2]" in caught.value.hint
    subject = unet_subject(classes=None, context=True)
    for null in (PROMPTS[:2], PROMPTS[:1, :2], PROMPTS[:1] * np.nan):
        with pytest.raises(CalibrationError, match="null_encoder_hidden_states"):
            DiffusionData(subject=subject, context=PROMPTS, null_context=null)


def test_a_model_that_fails_on_its_own_trajectory() -> None:
    with pytest.raises(CalibrationError, match=r"NaN or infinity at timestep 9\d\d"):
        list(DiffusionData(subject=unet_subject(), samples=4).batches(unet_graph(factor=np.inf), threads=1))


# Images


def test_images_get_noise_of_every_timestep() -> None:
    labels = np.arange(20) % 4
    data = ImageData(subject=unet_subject(timesteps=100), images=IMAGES, labels=labels, samples=200)
    rows = all_rows(data, unet_graph())
    assert counts(rows["timestep"], 100).tolist() == [2] * 100
    assert counts(rows["class_labels"], 5).tolist() == [25] * 4 + [100]
    clean = ImageData(subject=unet_subject(timesteps=100), images=IMAGES, labels=labels, samples=20)
    early = all_rows(clean, unet_graph())
    nearest = early["timestep"].argmin()
    assert np.abs(IMAGES - early["sample"][nearest]).max(axis=(1, 2, 3)).min() < 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES[:0]}, r"float32 \[0, 1, 2, 2\]"),
        ({"images": IMAGES[:, :, :1]}, r"\[20, 1, 1, 2\]"),
        ({"images": IMAGES * np.nan}, "NaN"),
        ({"images": IMAGES * 0}, "one constant"),
        ({"labels": None}, "no class labels"),
        ({"labels": np.arange(20)}, "labels are 0 to 19"),
        ({"labels": np.arange(19)}, "no class labels"),
        ({"subject": unet_subject(context=True)}, "takes encoder_hidden_states"),
        ({"subject": gan_subject()}, "a GAN needs none"),
    ],
)
def test_images_that_cannot_be_used(changes: dict[str, object], message: str) -> None:
    given = {"subject": unet_subject(), "images": IMAGES, "labels": np.arange(20) % 4, **changes}
    with pytest.raises(CalibrationError, match=message) as caught:
        ImageData(**given)  # type: ignore[arg-type]
    assert caught.value.hint


# GAN


@pytest.mark.parametrize("classes", [3, 10])
def test_latents_and_classes(classes: int) -> None:
    rows = all_rows(GanData(subject=gan_subject(classes), samples=509), gan_graph())
    z, labels = rows["latents"], rows["class_labels"]
    assert abs(float(z.mean())) < 5 / np.sqrt(z.size)
    assert abs(float(z.std()) - 1) < 5 / np.sqrt(2 * z.size)
    assert np.ptp(counts(labels, classes)) <= 1
    for half in (labels[::2], labels[1::2]):
        assert np.ptp(counts(half, classes)) <= 1


def test_no_latent_is_drawn_twice_nor_judged() -> None:
    drawn = [all_rows(GanData(subject=gan_subject(), seed=s), gan_graph())["latents"] for s in (0, 1, 16)]
    judged = [draw_latents((200, 6), seed=s, truncation=None) for s in range(64)]
    every = [row.tobytes() for rows in drawn for row in rows]
    assert len(set(every)) == len(every) == 3 * 256
    assert not set(every) & {row.tobytes() for rows in judged for row in rows}


def test_no_noise_is_judged() -> None:
    rows = all_rows(DiffusionData(subject=unet_subject(), samples=500), unet_graph())
    judged = {r.tobytes() for seed in range(8) for r in TorchGenerator(seed).randn((200, 1, 2, 2))}
    assert not judged & {r.tobytes() for r in rows["sample"]}


def test_none_of_no_samples() -> None:
    for make_one in (
        lambda: GanData(subject=gan_subject(), samples=0),
        lambda: DiffusionData(subject=unet_subject(), batch=0),
        lambda: DiffusionData(subject=unet_subject(), steps=1001),
        lambda: GanData(subject=unet_subject()),
        lambda: DiffusionData(subject=gan_subject()),
        lambda: TextData(subject=gan_subject(), tokens=TOKENS),
    ):
        with pytest.raises(CalibrationError) as caught:
            make_one()
        assert caught.value.hint
