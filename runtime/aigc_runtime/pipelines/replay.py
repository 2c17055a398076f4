"""Run a request as it stands in a bundle, and give its result as one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError
from aigc_runtime.pipelines import AnyPipeline
from aigc_runtime.pipelines.text import TextPipeline

__all__ = ["run_request"]


def run_request(pipeline: AnyPipeline, request: Mapping[str, Any]) -> Array:
    """Call `pipeline.generate` with the request's arguments.

    Args:
        pipeline: of any kind.
        request: keyword arguments of `generate`: plain JSON, of which `sampling` is an object, and arrays.

    Returns:
        Text: int64 [total], all rows' tokens one after the other, each row ended by -1. Images: float32 [N, C, H, W].

    Raises:
        BundleError: an argument that `generate` does not take.
        AigcError: what `generate` raises.
    """
    from aigc_runtime.pipelines.requests import request_sampling  # it looks into signatures: slow to import

    arguments = dict(request)
    try:
        if arguments.get("sampling") is not None:
            arguments["sampling"] = request_sampling(arguments["sampling"])
        result: Any = pipeline.generate(**arguments)
    except TypeError as err:
        raise BundleError(f"the reference request {sorted(request)} does not fit the pipeline: {err}") from err
    if isinstance(pipeline, TextPipeline):
        ended = [np.append(row.token_ids, -1) for row in result]
        return np.concatenate(ended)
    array: Array = result
    return array
