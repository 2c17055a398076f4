"""The arrays of a bundle's reference, each of the type and shape that the manifest announces."""

from __future__ import annotations

from typing import Any

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import ReferenceCase
from aigc_runtime.bundle.manifest_checks import MAX_STATE_BYTES, state_bytes
from aigc_runtime.bundle.runnable import idle_pipeline, result_forms
from aigc_runtime.core.sizes import Size, size_value
from aigc_runtime.core.tensors import Array, FeedChecker
from aigc_runtime.errors import BundleError, FeedError, InputError
from aigc_runtime.pipelines import get_kind

__all__ = ["read_request", "read_results", "read_step"]


def read_step(bundle: Bundle, case: ReferenceCase, number: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs and reference outputs of a step.

    Raises:
        BundleError: damaged, of another type or shape, or for so many rows that their state does not fit.
    """
    step = case.steps[number]
    interface = bundle.manifest.interfaces[step.engine]
    where = f"reference case {case.name!r} step {number}"
    inputs = {name: bundle.array(file) for name, file in step.inputs.items()}
    outputs = {name: bundle.array(file) for name, file in step.outputs.items()}
    try:
        sizes = FeedChecker(interface.inputs, interface.dims_by_name).check(inputs)
    except FeedError as err:
        raise BundleError(f"{where}: {err.message}", hint=err.hint) from err
    rows = sizes.get("batch", 1)
    needed = state_bytes(interface, rows=rows)
    if needed > MAX_STATE_BYTES:
        raise BundleError(
            f"{where}: the carried state of {rows} rows has {needed:,} bytes at its longest",
            hint=f"at most {MAX_STATE_BYTES:,} are allowed",
        )
    for spec in interface.outputs:
        if spec.name in outputs:
            array = outputs[spec.name]
            # What the held steps alone tell is compared when the step is run.
            known = [size_value(size, sizes) for size in spec.shape]
            shape = [there if size is None else size for there, size in zip(array.shape, known, strict=False)]
            _check_array(f"{where}: output {spec.name!r}", array, spec.dtype, (*shape, *spec.shape[len(shape) :]))
    return inputs, outputs


def read_request(bundle: Bundle) -> dict[str, Any]:
    """The keyword arguments of `generate` that the reference was made with, its arrays read.

    Raises:
        BundleError: an array is damaged, or not such as the pipeline takes.
    """
    generation = bundle.manifest.reference.generation
    arrays = {name: bundle.array(file) for name, file in generation.arrays.items()}
    try:
        get_kind(bundle.manifest.pipeline.kind).check_arrays(idle_pipeline(bundle.manifest), arrays)
    except InputError as err:
        raise BundleError(err.message, hint=err.hint) from err
    return {**generation.request, **arrays}


def read_results(bundle: Bundle) -> dict[str, Array]:
    """What PyTorch generated, by the names that `run_request` gives.

    Raises:
        BundleError: damaged, or of another type or shape.
    """
    generation = bundle.manifest.reference.generation
    forms = result_forms(bundle.manifest, idle_pipeline(bundle.manifest))
    arrays = {name: bundle.array(file) for name, file in generation.outputs.items()}
    for name, array in arrays.items():
        if not forms[name].fits(array):
            raise BundleError(
                f"the reference's {name!r} is {array.dtype} {list(array.shape)}", hint=f"must be {forms[name]}"
            )
    return arrays


def _check_array(what: str, array: Array, dtype: str, shape: tuple[Size, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise BundleError(
            f"{what} is {array.dtype} {list(array.shape)}, the manifest says {dtype} {list(shape)}",
            hint="the bundle is inconsistent: export it again",
        )
