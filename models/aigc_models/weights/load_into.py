"""Load tensors of a file into a module: every name, shape, type and value is checked before anything is changed."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Container, Iterable, Mapping

import torch
from torch import Tensor, nn

from aigc_runtime.errors import CheckpointError

__all__ = [
    "check_fits",
    "check_same",
    "check_type",
    "conversions",
    "convert",
    "load_into",
    "require_finite",
    "tied_names",
]


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "checkpoint") -> tuple[str, ...]:
    """Load tensors into a module: all of them, and exactly as they are.

    What the module ties (one parameter under several names, as its configuration declares) may be given under any of
    its names, or under several with equal numbers. Types may differ where no number changes: 16-bit floats become
    float32.

    Args:
        module: whose parameters and persistent buffers are replaced.
        tensors: by the names of its state dict.
        source: what holds them, for messages.

    Returns:
        What was converted, a sentence for each type.

    Raises:
        CheckpointError: names the tensor, what it is and what was expected, or the nearest name. Nothing was loaded.
    """
    expected = module.state_dict()
    given = check_fits(module, tensors, source=source)
    require_finite(given, source)
    converted = {name: convert(name, given[name], wanted.dtype, source) for name, wanted in expected.items()}
    module.load_state_dict(converted, strict=True)
    return conversions(given, converted)


def conversions(given: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Say which types became which, a sentence for each."""
    changed = Counter((given[n].dtype, t.dtype) for n, t in loaded.items() if given[n].dtype != t.dtype)
    return tuple(
        f"{count} tensors of {_type(was)} became {_type(now)}, every number as it was"
        for (was, now), count in sorted(changed.items(), key=str)
    )


def check_fits(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str = "checkpoint") -> dict[str, Tensor]:
    """Check that tensors have the names and shapes of a module's state dict.

    The module may be on the meta device, and so may the tensors, of which only names, types and shapes are compared.

    Returns:
        The tensors under all names of the module.

    Raises:
        CheckpointError: names the tensor that is missing, is not known or has another shape.
    """
    expected = module.state_dict()
    tied = tied_names(module)
    given = _untie(tensors, tied, source)
    for name in (n for n in expected if n not in given):
        raise _missing(name, expected[name], given, expected, tied.get(name, ()), source)
    for name in sorted(given.keys() - expected.keys()):
        raise _unexpected(name, module, given, expected, source)
    for name, wanted in expected.items():
        if given[name].shape != wanted.shape:
            raise CheckpointError(
                f"{source}: tensor {name!r} has shape {list(given[name].shape)}, expected {list(wanted.shape)}",
                hint="does config.json belong to these weights?",
            )
    return given


def require_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError for NaN and infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{source}: tensor {name!r} holds {bad} values that are NaN or infinite",
                hint="the training diverged, or the file is damaged: use an earlier checkpoint",
            )


def tied_names(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Find the parameters with several names: each name -> all names of the same parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def _untie(tensors: Mapping[str, Tensor], tied: Mapping[str, tuple[str, ...]], source: str) -> dict[str, Tensor]:
    """The tensors under all names of what the module ties, where at least one of them is there."""
    full = dict(tensors)
    for group in dict.fromkeys(tied.values()):
        present = [name for name in group if name in tensors]
        for other in present[1:]:
            check_same(present[0], other, tensors, source)
        full.update({name: tensors[present[0]] for name in group if present})
    return full


def check_same(name: str, other: str, tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that two tied tensors are equal; on the meta device, that their types and shapes are.

    Raises:
        CheckpointError: they differ.
    """
    one, two = tensors[name], tensors[other]
    if one.dtype != two.dtype or one.shape != two.shape:
        difference = " and ".join(f"{_type(t.dtype)} {list(t.shape)}" for t in (one, two))
    elif not one.is_meta and not torch.equal(one, two):
        difference = f"{int((one != two).sum()):,} of {one.numel():,} values differ"
    else:
        return
    raise CheckpointError(
        f"{source}: the model ties {name!r} and {other!r}, but the file holds two different tensors: {difference}",
        hint="where the model has two, config.json must not tie them (tie_embeddings: false; of transformers, "
        "tie_word_embeddings); else drop the wrong one",
    )


def _missing(
    name: str,
    wanted: Tensor,
    given: Mapping[str, Tensor],
    expected: Container[str],
    group: tuple[str, ...],
    source: str,
) -> CheckpointError:
    also = "".join(f", nor {other!r}, which is tied to it" for other in group if other != name)
    near = _nearest(name, given, taken=expected)
    hint = f"nearest in the file: {near!r}; " if near else ""
    if name == "lm_head.weight" and "embed_tokens.weight" in given:
        hint = "where the output layer is the embedding, config.json says so with tie_embeddings: true (of "
        hint += "transformers: tie_word_embeddings); "
    return CheckpointError(
        f"{source} lacks tensor {name!r} of shape {list(wanted.shape)}{also}",
        hint=f"{hint}is this a checkpoint of another model?",
    )


def _unexpected(
    name: str, module: nn.Module, given: Container[str], expected: Iterable[str], source: str
) -> CheckpointError:
    if name in dict(module.named_buffers()):
        return CheckpointError(
            f"{source} has a tensor {name!r}, which the model computes itself",
            hint="remove it from the file: its numbers could not be used",
        )
    near = _nearest(name, expected, taken=given)
    return CheckpointError(
        f"{source} has a tensor {name!r} that the model does not have",
        hint=(f"nearest in the model: {near!r}; " if near else "") + "does config.json belong to these weights?",
    )


def check_type(name: str, given: torch.dtype, wanted: torch.dtype, source: str) -> None:
    """Check that numbers of one type can be those of another: floats are floats, integers are integers.

    Raises:
        CheckpointError: they are not; names both.
    """
    if _kind(given) != _kind(wanted):
        raise CheckpointError(
            f"{source}: tensor {name!r} is of {_type(given)}, the model's is of {_type(wanted)}",
            hint="quantized or encoded weights are not read: save the numbers that the model computes with",
        )


def convert(name: str, tensor: Tensor, dtype: torch.dtype, source: str) -> Tensor:
    """Convert a tensor to the module's type, if no number changes by that.

    Raises:
        CheckpointError: the types are of different kinds, or numbers would change.
    """
    if tensor.dtype == dtype:
        return tensor
    check_type(name, tensor.dtype, dtype, source)
    result = tensor.to(dtype)
    lost = int((result.to(tensor.dtype) != tensor).sum())
    if lost:
        raise CheckpointError(
            f"{source}: tensor {name!r} is of {_type(tensor.dtype)}, and {lost:,} of its {tensor.numel():,} values "
            f"are no numbers of {_type(dtype)}",
            hint=f"round them yourself where that is meant: tensor.to(torch.{_type(dtype)})",
        )
    return result


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "float"
    return "bool" if dtype == torch.bool else "integer"


def _type(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _nearest(name: str, names: Iterable[str], *, taken: Container[str]) -> str:
    """The name most like `name`, rather one that has no partner yet; empty where none is like it."""
    all_names = list(names)
    for candidates in ([n for n in all_names if n not in taken], all_names):
        if near := difflib.get_close_matches(name, candidates, n=1):
            return near[0]
    return ""
