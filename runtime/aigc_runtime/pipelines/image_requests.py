"""What requests and results of the image pipelines have in common."""

from __future__ import annotations

import math
from collections.abc import Collection

from aigc_runtime.core.compare import psnr_db
from aigc_runtime.core.sizes import Size
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.arguments import check_labels
from aigc_runtime.pipelines.kind import Metric, Request, ResultForm, Results
from aigc_runtime.pipelines.limits import check_image_count, check_numbers

__all__ = ["IMAGES", "IMAGE_METRIC", "check_class_span", "image_forms"]

IMAGES = "images"
"""The result of a request."""


def _psnr(reference: Results, actual: Results) -> float:
    return psnr_db(reference[IMAGES], actual[IMAGES])


IMAGE_METRIC = Metric(name="psnr_db", measure=_psnr, limit="min_psnr_db")


def image_forms(
    request: Request, arrays: Collection[str], *, labels: str, num_classes: int | None, shape: tuple[int, int, int]
) -> dict[str, ResultForm]:
    """The form of the images that a request asks for.

    Args:
        request: plain arguments.
        arrays: names of those that are arrays.
        labels: name of the argument that holds class labels.
        num_classes: of the model.
        shape: (C, H, W) of the images.

    Raises:
        AigcError: too many, or numbers of them that contradict each other.
    """
    if arrays and request.get(labels) is None and request.get("batch") is None:
        raise ConfigError("the reference's request has arrays and does not say for how many images", hint="give batch")
    counts = {}
    if request.get(labels) is not None:
        counts[labels] = len(check_labels(request[labels], num_classes))
    if request.get("batch") is not None:
        counts["batch"] = int(request["batch"])
    if len(set(counts.values())) > 1:
        raise ConfigError(f"the reference's request asks for {counts} images", hint="the numbers must agree")
    count = next(iter(counts.values()), 1)
    check_image_count(count)
    whole = (count, *shape)
    check_numbers("the result", whole)
    size = 4 * math.prod(whole)
    form = ResultForm(
        what=f"images of shape {list(whole)}", dtype="float32", shape=whole, min_bytes=size, max_bytes=size
    )
    return {IMAGES: form}


def check_class_span(
    low: int | None, high: Size | None, *, name: str, num_classes: int, null_class: int | None
) -> None:
    """Refuse an engine that does not take every class.

    Args:
        low: the smallest label that it takes, if bounded.
        high: the bound on labels that it takes, exclusive, if bounded; one that follows from sizes takes no class for
            sure.
        name: of its input.
        num_classes: that may be asked for.
        null_class: the label of "no class", if there is one.

    Raises:
        ConfigError: names both spans.
    """
    largest = max(num_classes - 1, -1 if null_class is None else null_class)
    if (low or 0) > 0 or isinstance(high, str) or (high is not None and largest >= high):
        most = "any" if high is None else high - 1 if isinstance(high, int) else f"{high} - 1"
        raise ConfigError(
            f"input {name!r} takes {low or 0} to {most}, num_classes is {num_classes} and null_class {null_class}",
            hint="the engine must take every class",
        )
