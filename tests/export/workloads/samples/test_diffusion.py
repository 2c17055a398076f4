"""Points of sampling trajectories: over all steps, classes and branches, and on the trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_calibration.errors import CalibrationError
from aigc_calibration.onnx_function import opened_when_called
from aigc_export.workloads.samples.diffusion import DiffusionData
from aigc_runtime.core.tensors import Array
from aigc_runtime.generation.rng import TorchGenerator
from aigc_runtime.generation.schedules import alphas_cumprod

from ..families import NULL, WIDTH, all_rows, check_same_again, counts, unet_graph, unet_settings, unet_subject

PROMPTS = np.random.default_rng(1).standard_normal((6, 3, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("prompts", [False, True])
def test_the_same_again_other_seeds_others_and_as_many_as_told(prompts: bool) -> None:
    classes = None if prompts else 4
    check_same_again(
        lambda seed: DiffusionData(
            subject=unet_subject(classes=classes, context=prompts),
            settings=unet_settings(classes=classes),
            context=PROMPTS if prompts else None,
            samples=24,
            seed=seed,
        ),
        unet_graph(),
        samples=24,
        rows=24,
    )


@pytest.mark.parametrize("changes", [{"batch": 0}, {"samples": 0}, {"steps": 1001}])
def test_none_of_no_samples(changes: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError) as caught:
        DiffusionData(subject=unet_subject(), settings=unet_settings(), **changes)
    assert caught.value.hint


def test_no_noise_is_judged() -> None:
    rows = all_rows(DiffusionData(subject=unet_subject(), settings=unet_settings(), samples=500), unet_graph())
    judged = {r.tobytes() for seed in range(8) for r in TorchGenerator(seed).randn((200, 1, 2, 2))}
    assert not judged & {r.tobytes() for r in rows["sample"]}


@pytest.mark.parametrize("samples", [16, 256, 601])
def test_points_are_spread_over_steps_classes_and_branches(samples: int) -> None:
    data = DiffusionData(subject=unet_subject(), settings=unet_settings(), samples=samples)
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
    rows = all_rows(DiffusionData(subject=unet_subject(), settings=unet_settings(), samples=256), unet_graph())
    assert len(np.unique(rows["timestep"])) > 150
    short = all_rows(
        DiffusionData(subject=unet_subject(timesteps=120), settings=unet_settings(timesteps=120), samples=600),
        unet_graph(),
    )
    assert set(short["timestep"].astype(int)) == set(range(120))


def test_points_lie_on_trajectories() -> None:
    # eps = x makes x_0 = x (1 - sigma) / alpha, clipped: DDIM of one step less noise follows by hand.
    data = DiffusionData(
        subject=unet_subject(classes=None, timesteps=4),
        settings=unet_settings(classes=None, timesteps=4),
        samples=40,
        steps=4,
        batch=7,
    )
    rows = all_rows(data, unet_graph(factor=1.0))
    a = alphas_cumprod(unet_settings(timesteps=4).schedule)
    start = {t: rows["sample"][rows["timestep"] == t] for t in range(4)}
    assert [len(start[t]) for t in range(4)] == [10] * 4
    assert abs(float(start[3].std()) - 1) < 0.4
    for sample, t in zip(rows["sample"], rows["timestep"].astype(int), strict=True):
        if t == 3:
            continue
        # Every later point is sqrt(a) x_0 + sqrt(1 - a) eps with |x_0| <= 1 of a trajectory that began at eps = x.
        assert np.abs(sample).max() <= np.sqrt(a[t]) + 5 * np.sqrt(1 - a[t])


def test_prompts_take_the_place_of_classes() -> None:
    subject, settings = unet_subject(classes=None, context=True), unet_settings(classes=None)
    data = DiffusionData(
        subject=subject, settings=settings, context=PROMPTS, null_context=PROMPTS[:1] * 0 + 9, samples=60
    )
    rows = all_rows(data, unet_graph())["encoder_hidden_states"]
    used = [int(np.flatnonzero((r == PROMPTS).all(axis=(1, 2)))[0]) if (r != 9).any() else -1 for r in rows]
    assert counts(np.array(used) + 1, 7).tolist() == [30] + [5] * 6
    unguided = all_rows(DiffusionData(subject=subject, settings=settings, context=PROMPTS, samples=60), unet_graph())
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
        DiffusionData(
            subject=unet_subject(classes=None, context=True), settings=unet_settings(classes=None), context=context
        )
    assert "encoder_hidden_states float32 [batch, tokens, 5] -1e+06 to 1e+06" in caught.value.hint


def test_prompts_for_a_model_that_takes_none() -> None:
    with pytest.raises(CalibrationError, match="takes no encoder_hidden_states") as caught:
        DiffusionData(subject=unet_subject(), settings=unet_settings(), context=PROMPTS)
    assert "sample float32 [batch, 1, 2, 2]" in caught.value.hint
    subject, settings = unet_subject(classes=None, context=True), unet_settings(classes=None)
    for null in (PROMPTS[:2], PROMPTS[:1, :2], PROMPTS[:1] * np.nan):
        with pytest.raises(CalibrationError, match="null_encoder_hidden_states"):
            DiffusionData(subject=subject, settings=settings, context=PROMPTS, null_context=null)


def test_a_model_that_fails_on_its_own_trajectory() -> None:
    with pytest.raises(CalibrationError, match=r"NaN or infinity at timestep 9\d\d"):
        list(
            DiffusionData(subject=unet_subject(), settings=unet_settings(), samples=4).batches(
                opened_when_called(unet_graph(factor=np.inf))
            )
        )
