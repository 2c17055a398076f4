"""Noise of outputs, and the samples that it is measured on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from aigc_calibration.output_noise import (
    few_rows,
    first_batches,
    judged_batches,
    judged_sets,
    most_evaluations,
    output_noise,
    relative_noise,
    rows_of,
)
from aigc_runtime.core.tensors import Array

from .conftest import Batches


def batches(*rows: int) -> Batches:
    return Batches(tuple({"x": np.full((n, 2), i, np.float32)} for i, n in enumerate(rows)))


def shifted(by: float) -> dict[str, Array]:
    return {"y": np.array([3.0, 4.0]) + by, "z": np.array([0.0, 10.0])}


def test_it_is_the_mean_over_the_outputs_of_noise_by_signal() -> None:
    wanted = [shifted(0.0), shifted(0.0)]
    found = iter([shifted(1.0), shifted(-2.0)])
    # y: (1 + 1 + 4 + 4) / (25 + 25); z: none.
    assert output_noise(lambda _: next(found), [{}, {}], wanted) == pytest.approx((10 / 50 + 0) / 2)


def test_batches_count_by_their_weights() -> None:
    wanted = [{"y": np.full((2, 3), 2.0, np.float32)}, {"y": np.full((1, 3), 1.0, np.float32)}]
    moved = [{"y": wanted[0]["y"] + np.float32(0.5)}, {"y": wanted[1]["y"] - 4}]
    assert relative_noise(moved, wanted) == pytest.approx((6 * 0.25 + 3 * 16) / (6 * 4 + 3))
    expected = (6 * 0.25 + 0.125 * 3 * 16) / (6 * 4 + 0.125 * 3)
    assert relative_noise(moved, wanted, [1.0, 0.125]) == pytest.approx(expected)


def test_outputs_without_a_signal_do_not_count() -> None:
    wanted: list[Mapping[str, Array]] = [{"y": np.zeros(2), "z": np.ones(2)}]
    assert output_noise(lambda _: {"y": np.ones(2), "z": np.ones(2)}, [{}], wanted) == 0.0
    assert output_noise(lambda _: {"y": np.ones(2)}, [{}], [{"y": np.zeros(2)}]) == 0.0


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_not_finite_is_the_most_noise_there_is(odd: float) -> None:
    assert output_noise(lambda _: {"y": np.array([odd, 1.0])}, [{}], [{"y": np.ones(2)}]) == math.inf


def test_batches_are_taken_whole_and_once() -> None:
    data = batches(2, 2, 3, 1, 5)
    sets = first_batches(data, lambda _: {}, 3, sets=2)
    assert [[float(f["x"][0, 0]) for f in some] for some in sets] == [[0, 1], [2]]
    assert [rows_of(some) for some in sets] == [4, 3]


def test_there_may_be_fewer_than_were_asked_for() -> None:
    assert [rows_of(some) for some in first_batches(batches(2), lambda _: {}, 3, sets=2)] == [2, 0]


@pytest.mark.parametrize(("rows", "few", "most"), [(1, 1, 16), (40, 2, 20), (64, 4, 16), (800, 4, 32)])
def test_a_choice_reads_about_as_many_rows_as_there_are(rows: int, few: int, most: int) -> None:
    data = batches(*[1] * rows)
    assert few_rows(data) == few
    assert most_evaluations(data, data.feeds[:few]) == most
    assert most_evaluations(data, data.feeds[:few], least=2) == min(max(2, rows // few), 32)


@dataclass(frozen=True)
class Long(Batches):
    """Rows that can be cut into four each."""

    def short_rows(self) -> Batches:
        return Batches(tuple({"x": 100 + feeds["x"]} for feeds in self.feeds for _ in range(4)))

    def batches(self, run: object) -> Iterator[dict[str, Array]]:
        pytest.fail("the long rows are read")


@pytest.mark.parametrize(("rows", "few", "most"), [(1, 1, 16), (40, 10, 16), (64, 16, 16), (800, 16, 32)])
def test_short_rows_are_judged_where_there_are_any_and_as_many_more_of_them(rows: int, few: int, most: int) -> None:
    data = Long(batches(*[1] * rows).feeds)
    assert few_rows(data) == few
    found = judged_batches(data, lambda _: {})
    assert rows_of(found) == few
    assert found[0]["x"].tolist() == [[100.0, 100.0]]
    assert most_evaluations(data, found) == most
    assert [rows_of(some) for some in judged_sets(data, lambda _: {}, sets=2)] == [few, min(few, 4 * rows - few)]
