"""Describe the arrays that a graph takes, and check arrays against that before any work starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from aigc_calibration.errors import CalibrationError
from aigc_calibration.subject import Subject
from aigc_runtime.core.tensors import Array, FeedChecker, TensorSpec
from aigc_runtime.errors import FeedError

__all__ = ["ArrayCheck", "expected_arrays"]


def expected_arrays(subject: Subject, names: Collection[str] | None = None) -> str:
    """Describe a graph's inputs, or some of them, in one line: names, types, shapes and ranges."""
    parts = [_expected(subject, t) for t in subject.given if names is None or t.name in names]
    return f"expected exactly: {'; '.join(parts)}; the same number of rows in each, one or more"


def _expected(subject: Subject, tensor: TensorSpec) -> str:
    shape = ", ".join(map(str, tensor.shape))
    if tensor.name in subject.rules.words:
        span = subject.rules.words[tensor.name]
    elif isinstance(tensor.high, str):
        span = f"{tensor.low or 0} to {tensor.high} - 1"
    elif (limits := _limits(subject, tensor)) is None:
        span = "any finite numbers"
    else:
        span = f"{limits[0]:g} to {limits[1]:g}"
    return f"{tensor.name} {tensor.dtype} [{shape}] {span}"


def _limits(subject: Subject, tensor: TensorSpec) -> tuple[float, float] | None:
    """Smallest and largest number of an input, both allowed; None where nothing is known."""
    if tensor.name in subject.rules.limits:
        return subject.rules.limits[tensor.name]
    if isinstance(tensor.high, int):
        return tensor.low or 0, tensor.high - 1
    return None  # a bound that follows from sizes is the feed check's


class ArrayCheck:
    """Checks arrays for a graph's inputs, piece by piece.

    Args:
        subject: the interface, and the rules of its arrays.
        names: the inputs to check; None takes all.
        named: what to call the one input in messages, where the user calls it something else.
    """

    def __init__(self, subject: Subject, names: Collection[str] | None = None, *, named: str = "") -> None:
        self._subject = subject
        self._specs = tuple(t for t in subject.given if names is None or t.name in names)
        self._checker = FeedChecker(self._specs, {d.name: d for d in subject.interface.dims if d.name != "batch"})
        self._hint = expected_arrays(subject, names)
        self._named = named
        self._spans: dict[str, tuple[float, float]] = {}
        self._numbers = dict.fromkeys((t.name for t in self._specs), 0)

    def refuse(self, what: str, why: str = "") -> CalibrationError:
        """Make the error that says what is expected."""
        return CalibrationError(what, hint=f"{why}; {self._hint}" if why else self._hint)

    def shapes(self, arrays: Mapping[str, Array]) -> None:
        """Check names and shapes alone; the numbers may be stand-ins.

        Raises:
            CalibrationError: other inputs, no rows, or not as many in each.
        """
        if arrays.keys() != {t.name for t in self._specs}:
            raise self.refuse(f"the calibration arrays are {', '.join(sorted(arrays)) or 'none'}")
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        lengths = {shape[0] if shape else 0 for shape in shapes.values()}
        if len(lengths) > 1 or 0 in lengths:
            raise self.refuse(f"the calibration arrays have shapes {shapes}")
        if empty := sorted(name for name, array in arrays.items() if not array.size):
            raise self.refuse(f"calibration array {empty[0]!r} is empty: shape {shapes[empty[0]]}")
        self._feed({name: array[:1] for name, array in arrays.items()})

    def add(self, arrays: Mapping[str, Array]) -> None:
        """Check the next rows.

        Raises:
            CalibrationError: another type or shape, NaN, infinity, or numbers outside what the input takes.
        """
        self._feed(arrays)
        for spec in self._specs:
            array, name = arrays[spec.name], self._named or spec.name
            if not np.isfinite(array).all():
                raise self.refuse(f"calibration array {name!r} holds NaN or infinity", "check where it comes from")
            low, high = array.min().item(), array.max().item()
            limits = _limits(self._subject, spec)
            if limits is not None and not limits[0] <= low <= high <= limits[1]:
                raise self.refuse(f"calibration array {name!r} holds values from {low:g} to {high:g}")
            before = self._spans.get(spec.name, (low, high))
            self._spans[spec.name] = min(before[0], low), max(before[1], high)
            self._numbers[spec.name] += array.size
        if fault := self._subject.rules.find_fault(arrays):
            raise self.refuse(fault)

    def finish(self) -> None:
        """Check what needs all rows: ranges and constant inputs.

        Raises:
            CalibrationError: an array that is one constant.
        """
        for spec in self._specs:
            low, high = self._spans[spec.name]
            # One class, or no padding, is what the data may be like; one token or one number everywhere is no data.
            is_checked = np.dtype(spec.dtype).kind == "f" or spec.name in self._subject.rules.varied
            if is_checked and low == high and self._numbers[spec.name] > 1:
                raise self.refuse(f"calibration array {spec.name!r} is one constant, {low:g}", "give real samples")

    def _feed(self, arrays: Mapping[str, Array]) -> None:
        try:
            self._checker.check(arrays)
        except FeedError as err:
            message = err.message if not self._named else f"{self._named!r}: {err.message}"
            raise self.refuse(message, err.hint) from err
