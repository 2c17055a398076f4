"""Run a request as it stands in a bundle, and give its results as arrays by name."""

from __future__ import annotations

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError
from aigc_runtime.pipelines.kind import AnyPipeline, Request
from aigc_runtime.pipelines.kinds import kind_of

__all__ = ["run_request"]


def run_request(pipeline: AnyPipeline, request: Request) -> dict[str, Array]:
    """Call `pipeline.generate` with the request's arguments.

    Args:
        pipeline: of any kind.
        request: keyword arguments of `generate`: plain JSON, of which `sampling` is an object, and arrays.

    Returns:
        Arrays by name. Text: `tokens`, int64 [total], all rows' tokens one after the other, each row ended by -1.
        Images: `images`, float32 [N, C, H, W]. Tensors: every output of the program by its name.

    Raises:
        BundleError: an argument that `generate` does not take.
        AigcError: what `generate` raises.
    """
    try:
        return kind_of(pipeline.settings).replay(pipeline, request)
    except TypeError as err:
        raise BundleError(f"the reference request {sorted(request)} does not fit the pipeline: {err}") from err
