"""Images with noise: of every timestep, every class, and none."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_calibration.errors import CalibrationError
from aigc_export.workloads.samples.images import ImageData

from ..families import all_rows, check_same_again, counts, unet_graph, unet_settings, unet_subject

IMAGES = np.random.default_rng(0).uniform(-1, 1, (20, 1, 2, 2)).astype(np.float32)


def test_the_same_again_other_seeds_others_and_as_many_as_told() -> None:
    check_same_again(
        lambda seed: ImageData(
            subject=unet_subject(),
            settings=unet_settings(),
            images=IMAGES,
            labels=np.arange(20) % 4,
            samples=24,
            seed=seed,
        ),
        unet_graph(),
        samples=24,
        rows=24,
    )


def test_images_get_noise_of_every_timestep() -> None:
    labels = np.arange(20) % 4
    data = ImageData(
        subject=unet_subject(timesteps=100),
        settings=unet_settings(timesteps=100),
        images=IMAGES,
        labels=labels,
        samples=200,
    )
    rows = all_rows(data, unet_graph())
    assert counts(rows["timestep"], 100).tolist() == [2] * 100
    assert counts(rows["class_labels"], 5).tolist() == [25] * 4 + [100]
    clean = ImageData(
        subject=unet_subject(timesteps=100),
        settings=unet_settings(timesteps=100),
        images=IMAGES,
        labels=labels,
        samples=20,
    )
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
    ],
)
def test_images_that_cannot_be_used(changes: dict[str, object], message: str) -> None:
    given = {
        "subject": unet_subject(),
        "settings": unet_settings(),
        "images": IMAGES,
        "labels": np.arange(20) % 4,
        **changes,
    }
    with pytest.raises(CalibrationError, match=message) as caught:
        ImageData(**given)  # type: ignore[arg-type]
    assert caught.value.hint
