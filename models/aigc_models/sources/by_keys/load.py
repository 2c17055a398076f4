"""A file of weights whose tensors say of what network they are, as a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_models.sources.by_keys.dcgan import find_dcgan
from aigc_models.sources.by_keys.network import Network, check_tensors
from aigc_models.sources.by_keys.rrdbnet import find_rrdbnet
from aigc_models.sources.by_keys.srvgg import find_srvgg
from aigc_models.sources.by_keys.stylegan2 import find_stylegan2
from aigc_models.sources.outline import Outline
from aigc_models.sources.state_dict_file import file_shapes, open_state_dict, state_dict_file
from aigc_models.weights.pickled_weights import PickledWeights
from aigc_models.weights.stored_weights import StoredWeights
from aigc_runtime.errors import AigcError, UnknownNameError

if TYPE_CHECKING:
    from aigc_models.program import Program

__all__ = ["NETWORKS", "is_known_network", "load_network", "outline_network"]

NETWORKS: Mapping[str, Callable[..., Network | None]] = {
    "rrdbnet": find_rrdbnet,
    "srvgg": find_srvgg,
    "stylegan2": find_stylegan2,
    "dcgan": find_dcgan,
}
"""Family -> recognizes its networks by (shapes, source=...), in the order in which they are asked."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    file: Path
    weights: StoredWeights | PickledWeights
    network: Network
    parameters: int


def is_known_network(path: Path) -> bool:
    """Whether the tensors of a file, or of the only one of a folder, are called as those of a known network are.

    A file that is damaged is none: another source says what is wrong with it.
    """
    try:
        weights = open_state_dict(state_dict_file(path))
    except AigcError:
        return False
    try:
        return _recognize(weights, source=str(path)) is not None
    except AigcError:
        return True  # it is one, and loading says what it lacks


def _recognize(weights: StoredWeights | PickledWeights, *, source: str) -> Network | None:
    shapes = file_shapes(weights)
    found = (find(shapes, source=source) for find in NETWORKS.values())
    return next((network for network in found if network is not None), None)


def _find(path: Path) -> _Found:
    file = state_dict_file(path)
    weights = open_state_dict(file)
    network = _recognize(weights, source=str(file))
    assert network is not None, "asked by `is_known_network` before"
    parameters = check_tensors(file_shapes(weights), network, source=str(file))
    return _Found(file=file, weights=weights, network=network, parameters=parameters)


def outline_network(path: Path) -> Outline:
    """Say what network a file is of, from what it says of its tensors.

    Raises:
        CheckpointError: names the tensor that is missing, is not known or has another shape.
    """
    found = _find(path)
    stored: dict[str, int] = {}
    for tensor in found.weights.described().values():
        kind = str(tensor.dtype).removeprefix("torch.")
        stored[kind] = stored.get(kind, 0) + tensor.nbytes
    network = found.network
    return Outline(
        kind=network.kind,
        architecture=network.architecture,
        family=network.family,
        parameters=found.parameters,
        stored=dict(sorted(stored.items(), key=lambda item: -item[1])),
        notes=(f"recognized by its tensors: {network.words}", *found.weights.notes),
    )


def load_network(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load the network of a file.

    Args:
        path: of a `.safetensors`, `.pt` or `.pth` file, or of a folder with one.
        source: as the user named it.
        options: of the export, of which a network may have some.

    Raises:
        UnknownNameError: an option that it does not have, or another value than it takes.
        CheckpointError: other tensors, numbers that are not finite, or a file that could run code.
        ConfigError: more memory is needed than is free.
    """
    from aigc_models.weights.before_memory import check_before_memory
    from aigc_models.weights.checkpoint import Checkpoint
    from aigc_models.weights.load_into import load_into
    from aigc_models.weights.stream_into import build_undrawn

    found = _find(path)
    network, weights = found.network, found.weights
    for option in options:
        if option not in network.options:
            raise UnknownNameError(f"export option of {network.architecture}", option, network.options)
    described = weights.described()
    names = {ours: network.theirs(ours) for ours in _parameter_names(network)}
    check_before_memory(
        network.build, {ours: described[theirs] for ours, theirs in names.items()}, source=str(found.file)
    )
    module = build_undrawn(network.build)
    converted = load_into(module, {ours: weights[theirs] for ours, theirs in names.items()}, source=str(found.file))
    return network.program(
        module,
        options,
        name=found.file.name.rpartition(".")[0] or network.family,
        checkpoint=Checkpoint(config=network.config.to_dict(), tensors=weights, path=found.file),
        source=source,
        notes=(*weights.notes, *converted),
    )


def _parameter_names(network: Network) -> tuple[str, ...]:
    import torch

    with torch.device("meta"):
        return tuple(network.build().state_dict())
