"""Checks on feeds: element types, sizes that follow from other sizes, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import DTYPES, DimSpec, FeedChecker, TensorSpec, bind_dims
from aigc_runtime.errors import ConfigError, FeedError

IDS = TensorSpec(name="ids", dtype="int32", shape=("batch", "sequence"))
MASK = TensorSpec(name="mask", dtype="bool", shape=("batch", "past+sequence"))
DIMS = {
    "batch": DimSpec(name="batch"),
    "sequence": DimSpec(name="sequence"),
    "past": DimSpec(name="past", min=0, max=4),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_every_element_type_and_rank_passes(dtype: str, rank: int) -> None:
    shape = ("batch", *range(2, rank + 1))
    spec = TensorSpec(name="x", dtype=dtype, shape=shape)
    interface = Interface(inputs=(spec,), outputs=(spec,), dims=(DIMS["batch"],))
    x = np.ones((3, *range(2, rank + 1))).astype(dtype)
    found = ArraySession(lambda values: {"x": values["x"]}, interface).run({"x": x})["x"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, x)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "int16", "complex64", "", "f4"])
def test_other_element_types_are_refused(dtype: str) -> None:
    with pytest.raises(ConfigError, match="valid: float32, float16, int64, int32, int8, uint8, bool"):
        TensorSpec(name="x", dtype=dtype, shape=("batch",))


@pytest.mark.parametrize("specs", [(IDS, MASK), (MASK, IDS)])
def test_a_dimension_follows_from_a_sum_whatever_the_order(specs: tuple[TensorSpec, ...]) -> None:
    checker = FeedChecker(specs, DIMS)
    feeds = {"ids": np.zeros((2, 3), np.int32), "mask": np.ones((2, 7), bool)}
    assert checker.check(feeds) == {"batch": 2, "sequence": 3, "past": 4}
    assert checker.check({**feeds, "mask": np.ones((2, 3), bool)})["past"] == 0


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (2, r"input 'mask' has size 2 on axis 1, expected past\+sequence = 3"),
        (8, r"dimension 'past' is 5\nmust be 0 to 4"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(width: int, message: str) -> None:
    feeds = {"ids": np.zeros((2, 3), np.int32), "mask": np.ones((2, width), bool)}
    with pytest.raises(FeedError, match=message):
        FeedChecker((MASK, IDS), DIMS).check(feeds)


def test_a_sum_of_known_dimensions_and_numbers_is_checked() -> None:
    pair = TensorSpec(name="pair", dtype="int8", shape=("height+width+1",))
    image = TensorSpec(name="image", dtype="uint8", shape=("height", "width"))
    assert bind_dims([(pair, (6,)), (image, (2, 3))]) == {"height": 2, "width": 3}
    with pytest.raises(FeedError, match=r"input 'pair' has size 5 on axis 0, expected height\+width\+1 = 6"):
        bind_dims([(pair, (5,)), (image, (2, 3))])


def test_a_sum_of_several_unknown_dimensions_is_left_open() -> None:
    pair = TensorSpec(name="pair", dtype="int8", shape=("height+width",))
    assert bind_dims([(pair, (6,))]) == {}


def test_one_sum_may_tell_what_another_needs() -> None:
    first = TensorSpec(name="first", dtype="int8", shape=("a+b",))
    second = TensorSpec(name="second", dtype="int8", shape=("b+c",))
    third = TensorSpec(name="third", dtype="int8", shape=("c",))
    assert bind_dims([(first, (9,)), (second, (5,)), (third, (1,))]) == {"c": 1, "b": 4, "a": 5}


@pytest.mark.parametrize("name", ["", "2a", "a b", "a+b", "é", "a" * 65, "a\n"])
def test_names_that_no_dimension_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match="ASCII letters, digits and _, not a digit first, at most 64"):
        DimSpec(name=name)


PLACES = TensorSpec(name="places", dtype="int64", shape=("kept",), low=0, high="sequence")


def test_a_bound_that_follows_from_sizes_is_that_of_each_run() -> None:
    checker = FeedChecker((IDS, PLACES), DIMS)
    for length in (3, 7, 3):
        ids = np.zeros((2, length), np.int32)
        checker.check({"ids": ids, "places": np.array([length - 1, 0, 0])})
        for wrong in ([length], [-1], [0, length + 5]):
            with pytest.raises(FeedError) as caught:
                checker.check({"ids": ids, "places": np.array(wrong)})
            assert caught.value.message == f"input 'places' holds values from {min(wrong)} to {max(wrong)}"
            assert caught.value.hint == f"values must be in [0, sequence = {length})"
    assert (PLACES.high_at({"sequence": 9}), PLACES.high_at({}), IDS.high_at({"sequence": 9})) == (9, None, None)


@pytest.mark.parametrize(
    ("high", "message"),
    [
        ("sequence + 1", "the bound of tensor 'places' has size 'sequence + 1'\nwrite it as 'sequence+1'"),
        ("7", "the bound of tensor 'places' has size '7'\nwrite a size without dimensions as a number"),
        ("sequence/2", "the bound of tensor 'places': 'sequence/2' is not a size"),
    ],
)
def test_bounds_that_are_no_sizes(high: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TensorSpec(name="places", dtype="int64", shape=("kept",), low=0, high=high)
    assert message in str(caught.value)
