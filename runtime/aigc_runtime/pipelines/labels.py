"""What the image pipelines share: class labels, and batches that an engine takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aigc_runtime.errors import InputError
from aigc_runtime.tensors import Array

__all__ = ["check_labels", "chunks"]


def check_labels(labels: Sequence[int] | None, num_classes: int | None) -> Array:
    """Class labels as int64 [N].

    Raises:
        InputError: none given, not integers, or outside 0 to num_classes - 1.
    """
    top = "?" if num_classes is None else num_classes - 1
    if labels is None or len(labels) == 0:
        raise InputError("no class labels were given", hint=f"give one per image, from 0 to {top}")
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"class labels {labels!r}", hint=f"must be a list of integers from 0 to {top}")
    if array.min() < 0 or (num_classes is not None and array.max() >= num_classes):
        raise InputError(f"class labels from {array.min()} to {array.max()}", hint=f"must be from 0 to {top}")
    return array.astype(np.int64)


def chunks(count: int, most: int | None) -> Iterator[slice]:
    """Slices of at most `most` rows that cover `count` rows.

    >>> list(chunks(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = count if most is None else most
    for start in range(0, count, max(1, size)):
        yield slice(start, min(count, start + size))
