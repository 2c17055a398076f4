"""Latents and classes: as a pipeline draws them, and none that a pipeline draws."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_calibration.errors import CalibrationError
from aigc_export.workloads.samples.gan import GanData
from aigc_runtime.pipelines.gan import draw_latents

from ..families import all_rows, check_same_again, counts, gan_graph, gan_settings


def test_the_same_again_other_seeds_others_and_as_many_as_told() -> None:
    check_same_again(
        lambda seed: GanData(settings=gan_settings(), samples=24, seed=seed), gan_graph(), samples=24, rows=24
    )


def test_none_of_no_samples() -> None:
    with pytest.raises(CalibrationError, match="samples is 0"):
        GanData(settings=gan_settings(), samples=0)


@pytest.mark.parametrize("classes", [3, 10])
def test_latents_and_classes(classes: int) -> None:
    rows = all_rows(GanData(settings=gan_settings(classes), samples=509), gan_graph())
    z, labels = rows["latents"], rows["class_labels"]
    assert abs(float(z.mean())) < 5 / np.sqrt(z.size)
    assert abs(float(z.std()) - 1) < 5 / np.sqrt(2 * z.size)
    assert np.ptp(counts(labels, classes)) <= 1
    for half in (labels[::2], labels[1::2]):
        assert np.ptp(counts(half, classes)) <= 1


def test_no_latent_is_drawn_twice_nor_judged() -> None:
    drawn = [all_rows(GanData(settings=gan_settings(), seed=s), gan_graph())["latents"] for s in (0, 1, 16)]
    judged = [draw_latents((200, 6), seed=s, truncation=None) for s in range(64)]
    every = [row.tobytes() for rows in drawn for row in rows]
    assert len(set(every)) == len(every) == 3 * 256
    assert not set(every) & {row.tobytes() for rows in judged for row in rows}
