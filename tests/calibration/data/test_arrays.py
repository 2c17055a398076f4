"""The user's own arrays: which rows are fed, and what is refused before any work starts, with what is expected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aigc_calibration.data import ArrayData, NpzRows
from aigc_calibration.errors import CalibrationError
from aigc_calibration.subject import Subject
from aigc_runtime.core.tensors import Array

from ...export.workloads.families import (
    WIDTH,
    all_rows,
    counts,
    gan_graph,
    gan_subject,
    text_graph,
    text_subject,
    unet_subject,
)

PROMPTS = np.random.default_rng(1).standard_normal((6, 3, WIDTH)).astype(np.float32)


def save(path: Path, **arrays: Array) -> NpzRows:
    np.savez(path, allow_pickle=False, **arrays)
    return NpzRows(path)


def test_rows_of_a_file(tmp_path: Path) -> None:
    z = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float32)
    labels = np.arange(100) // 10
    source = save(tmp_path / "x.npz", latents=z, class_labels=labels)
    data = ArrayData(subject=gan_subject(), source=source, most=40, seed=3)
    assert (data.samples, data.rows, data.total) == (40, 40, 100)
    rows = all_rows(data, gan_graph())
    assert counts(rows["class_labels"], 10).tolist() == [4] * 10
    assert {r.tobytes() for r in rows["latents"]} < {r.tobytes() for r in z}
    again, other = (
        all_rows(ArrayData(subject=gan_subject(), source=source, most=40, seed=s), gan_graph()) for s in (3, 4)
    )
    np.testing.assert_array_equal(again["latents"], rows["latents"])
    assert not np.array_equal(other["latents"], rows["latents"])
    whole = ArrayData(subject=gan_subject(), source=source, most=1000)
    np.testing.assert_array_equal(all_rows(whole, gan_graph())["latents"], z)


def test_rows_are_not_run_to_be_fed(tmp_path: Path) -> None:
    z = np.arange(54, dtype=np.float32).reshape(9, 6)
    source = save(tmp_path / "x.npz", latents=z, class_labels=np.arange(9))
    data = ArrayData(subject=gan_subject(), source=source, most=9)
    found = data.batches(lambda _: pytest.fail("the graph runs, and nothing needs its results"))
    assert sum(len(feeds["latents"]) for feeds in found) == 9


def test_rows_of_text_start_with_an_empty_cache(tmp_path: Path) -> None:
    ids = np.arange(60).reshape(6, 10)
    source = save(tmp_path / "x.npz", input_ids=ids, pad_length=np.array([0, 1, 9, 0, 0, 0]))
    rows = all_rows(ArrayData(subject=text_subject(), source=source), text_graph())
    np.testing.assert_array_equal(rows["input_ids"], ids)
    assert rows["past_key"].shape == (6, 0, 1)
    assert rows["logits_to_keep"].tolist() == list(range(10))  # which no user gives


UNET: dict[str, Array] = {
    "sample": np.random.default_rng(0).standard_normal((8, 1, 2, 2)).astype(np.float32),
    "timestep": np.linspace(0, 999, 8).astype(np.float32),
    "class_labels": np.arange(8) % 5,
}
GAN: dict[str, Array] = {
    "latents": np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32),
    "class_labels": np.zeros(40, int),
}
TEXT: dict[str, Array] = {"input_ids": np.arange(60).reshape(6, 10), "pad_length": np.zeros(6, int)}
TOLD = {
    "gan": "expected exactly: latents float32 [batch, 6] -100 to 100; class_labels int64 [batch] 0 to 9; the same",
    "unet": "sample float32 [batch, 1, 2, 2] -10000 to 10000; timestep float32 [batch] 0 to 999; class_labels int64",
    "text": "input_ids int64 [batch, sequence] 0 to 255; pad_length int64 [batch] 0 to sequence - 1",
}
FAMILIES: dict[str, tuple[Subject, dict[str, Array]]] = {
    "gan": (gan_subject(), GAN),
    "unet": (unet_subject(), UNET),
    "text": (text_subject(), TEXT),
}


def loud(row: int) -> Array:
    latents = GAN["latents"].copy()
    latents[row, 2] = 1e35
    return latents


@pytest.mark.parametrize("family", list(FAMILIES))
def test_good_arrays_are_taken(family: str, tmp_path: Path) -> None:
    subject, arrays = FAMILIES[family]
    assert ArrayData(subject=subject, source=save(tmp_path / "x.npz", **arrays)).samples == len(
        next(iter(arrays.values()))
    )
    one = {name: array[:1] for name, array in arrays.items()}
    assert ArrayData(subject=subject, source=save(tmp_path / "y.npz", **one)).samples == 1


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gan", {"latents": np.float32(1), "class_labels": np.int64(1)}, r"have shapes \{'latents': \[\], "),
        ("gan", {"latents": loud(0)}, r"'latents' holds values from -?\d\S* to 1e\+35"),
        ("gan", {"latents": loud(39)}, r"'latents' holds values from -?\d\S* to 1e\+35"),
        ("gan", {"latents": GAN["latents"] * np.float32(np.inf)}, "holds NaN or infinity"),
        ("gan", {"latents": GAN["latents"] * 0}, "'latents' is one constant, 0"),
        ("gan", {"latents": GAN["latents"][:, :5]}, "size 5 on axis 1"),
        ("gan", {"latents": GAN["latents"].astype(">f4")}, "has dtype >f4"),
        ("gan", {"class_labels": np.r_[np.zeros(39, int), 10]}, "holds values from 0 to 10"),
        ("gan", {"class_labels": np.zeros(39, int)}, "have shapes"),
        ("gan", {"class_labels": None}, "the calibration arrays are latents"),
        ("gan", {"latents": GAN["latents"][:0], "class_labels": np.zeros(0, int)}, "have shapes"),
        ("unet", {"timestep": UNET["timestep"] - 5000}, "'timestep' holds values from -5000 to -4001"),
        ("unet", {"timestep": UNET["timestep"] + 1}, "'timestep' holds values from 1 to 1000"),
        ("unet", {"timestep": UNET["timestep"] * 0}, "'timestep' is one constant"),
        ("unet", {"encoder_hidden_states": PROMPTS}, "the calibration arrays are class_labels, encoder_hidden_states"),
        ("text", {"input_ids": TEXT["input_ids"] * 0}, "'input_ids' is one constant, 0"),
        ("text", {"pad_length": np.full(6, 10)}, "'pad_length' reaches 10, and a row of 'input_ids' has 10"),
        ("text", {"pad_length": np.r_[np.zeros(5, int), 96]}, "holds values from 0 to 96"),
        ("text", {"input_ids": np.arange(6 * 97).reshape(6, 97) % 256}, "'sequence' is 97"),
        ("text", {"input_ids": np.zeros((6, 0), int)}, "is empty"),
    ],
)
def test_arrays_that_cannot_be_used(
    family: str, changes: dict[str, Array | None], message: str, tmp_path: Path
) -> None:
    subject, good = FAMILIES[family]
    arrays = {name: array for name, array in {**good, **changes}.items() if array is not None}
    with pytest.raises(CalibrationError, match=message) as caught:
        ArrayData(subject=subject, source=save(tmp_path / "x.npz", **arrays))
    assert TOLD[family] in caught.value.hint
