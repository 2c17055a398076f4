"""A language model of PyTorch's `nn.TransformerEncoder` as a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_models.families.lm_config import LMConfig
from aigc_models.families.lm_shapes import count_parameters
from aigc_models.sources.encoder.config import encoder_config, is_encoder_config
from aigc_models.sources.encoder.tensors import EncoderTensors, find_tensors, has_encoder
from aigc_models.sources.outline import Outline
from aigc_models.sources.state_dict_file import open_state_dict, state_dict_file
from aigc_models.text_assets import read_text_assets
from aigc_models.weights.pickled_weights import PICKLED_SUFFIXES
from aigc_models.weights.safetensors_file import open_tensors_file
from aigc_models.weights.stored_weights import HashedWeights
from aigc_runtime.errors import AigcError, CheckpointError, ConfigError
from aigc_runtime.io.user_file import path_exists

if TYPE_CHECKING:
    from torch import Tensor

    from aigc_models.program import Program

__all__ = ["is_encoder", "load_encoder", "outline_encoder"]


def is_encoder(path: Path, config: Mapping[str, Any] | None) -> bool:
    """Whether a path is a state dict that may be such a model's, or a folder with one.

    A file of `torch.save` is taken for one by its ending, since nothing else here reads it; a safetensors file by the
    names in its header.
    """
    if config is not None:
        return is_encoder_config(config)
    try:
        file = state_dict_file(path)
    except CheckpointError:
        return False
    if file.name.endswith(PICKLED_SUFFIXES):
        return True
    try:
        return has_encoder({name: stored.shape for name, stored in open_tensors_file(file).tensors.items()})
    except AigcError:
        return False


@dataclass(frozen=True, kw_only=True)
class _Found:
    file: Path
    weights: HashedWeights
    tensors: EncoderTensors
    config: LMConfig
    notes: tuple[str, ...]


def _find(path: Path, given: Mapping[str, Any] | None) -> _Found:
    file = state_dict_file(path)
    weights = open_state_dict(file)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.described().items()}
    names = {field: (given or {}).get(field) for field in ("embedding", "output")}
    tensors = find_tensors(shapes, source=str(file), **names)
    tied = tensors.head is None or _equal(weights[tensors.embedding], weights[tensors.head])
    config = encoder_config(given, tensors, source=str(file), tied=tied)
    notes = [*weights.notes]
    if tensors.head is None:
        notes.append(
            f"the output layer is the embedding: the file holds {tensors.head_bias!r} and no weight of its own"
        )
    if tensors.ignored:
        notes.append(f"not read, since every token sees those before it: {', '.join(tensors.ignored)}")
    if "layer_norm_eps" not in (given or {}):
        notes.append("layer_norm_eps is PyTorch's default, 1e-05: config.json can say another")
    if path_exists(file.parent / "vocab.json") and not path_exists(file.parent / "tokenizer.json"):
        notes.append(
            "vocab.json is not read, since it does not say how a text is cut into its words: tokenizer.json is"
        )
    return _Found(file=file, weights=weights, tensors=tensors, config=config, notes=tuple(notes))


def _equal(one: Tensor, two: Tensor) -> bool:
    import torch

    return one.dtype == two.dtype and torch.equal(one, two)


def outline_encoder(path: Path, given: Mapping[str, Any] | None) -> Outline:
    """Say what a state dict is of, before it is loaded. It takes PyTorch.

    Raises:
        CheckpointError: see `load_encoder`.
    """
    found = _find(path, given)
    stored: dict[str, int] = {}
    for tensor in found.weights.described().values():
        kind = str(tensor.dtype).removeprefix("torch.")
        stored[kind] = stored.get(kind, 0) + tensor.nbytes
    text = read_text_assets(found.file.parent, dict(given or {}), vocab_size=found.config.vocab_size)
    return Outline(
        kind="text",
        architecture="nn.TransformerEncoder",
        family="encoder",
        parameters=sum(count_parameters(found.config).values()),
        stored=dict(sorted(stored.items(), key=lambda item: -item[1])),
        config=found.config,
        text=text,
        notes=(*found.notes, *text.notes),
    )


def load_encoder(path: Path, given: Mapping[str, Any] | None, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load the model of a state dict.

    Args:
        path: of a `.safetensors`, `.pt` or `.pth` file, or of a folder with one.
        given: the content of the config.json beside it; None where there is none.
        source: as the user named it.
        options: of the export.

    Raises:
        UnknownNameError: an option that a language model has not.
        CheckpointError: another model's tensors, a file that could run code, or what config.json must say.
        ConfigError: sizes that make no model, or more memory than is free.
    """
    from aigc_models.families.lm import TransformerLM
    from aigc_models.sources.transformers.language_program import check_options, language_program
    from aigc_models.weights.before_memory import check_before_memory
    from aigc_models.weights.checkpoint import Checkpoint
    from aigc_models.weights.load_into import load_into
    from aigc_models.weights.stream_into import build_undrawn

    check_options(options)
    if options.get("lora"):
        raise ConfigError(
            f"--lora is {', '.join(options['lora'])}: adapters are not merged into an nn.TransformerEncoder",
            hint="merge them yourself, and save the state dict again",
        )
    found = _find(path, given)
    text = read_text_assets(found.file.parent, dict(given or {}), vocab_size=found.config.vocab_size)
    renamed = _renamed(found.weights, found.tensors, tied=found.config.tie_embeddings)
    check_before_memory(lambda: TransformerLM(found.config), renamed, source=str(found.file))
    module = build_undrawn(lambda: TransformerLM(found.config))
    assert isinstance(module, TransformerLM)
    converted = load_into(module, renamed, source=str(found.file))
    return language_program(
        module.eval(),
        text=text,
        checkpoint=Checkpoint(config=dict(given or {}), tensors=found.weights, path=found.file),
        name=found.file.name.rpartition(".")[0] or "lm",
        source=source,
        options=options,
        notes=(*found.notes, *converted),
    )


_PARTS = {
    "self_attn.out_proj": "self_attn.o_proj",
    "linear1": "mlp.up_proj",
    "linear2": "mlp.down_proj",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
}
"""`nn.TransformerEncoderLayer` -> `Block`: the first norm is that of the attention in both orders."""


def _renamed(weights: HashedWeights, tensors: EncoderTensors, *, tied: bool) -> dict[str, Tensor]:
    """The tensors under the names of `TransformerLM`."""
    import torch

    found = {"embed_tokens.weight": weights[tensors.embedding]}
    if tensors.positions is not None:
        found["embed_positions.weight"] = weights[tensors.positions].reshape(-1, tensors.width)
    if tensors.head is not None and not tied:
        found["lm_head.weight"] = weights[tensors.head]
    if tensors.head_bias is not None:
        found["lm_head.bias"] = weights[tensors.head_bias]
    kinds = ("weight", "bias") if tensors.biases else ("weight",)
    zeros = torch.zeros(tensors.width)
    for layer in range(tensors.layers):
        for kind in kinds:
            thirds = weights[tensors.layer(layer, f"self_attn.in_proj_{kind}")].chunk(3)
            found |= {f"layers.{layer}.self_attn.{n}_proj.{kind}": t for n, t in zip("qkv", thirds, strict=True)}
        for theirs, ours in _PARTS.items():
            for kind in kinds:
                found[f"layers.{layer}.{ours}.{kind}"] = weights[tensors.layer(layer, f"{theirs}.{kind}")]
            if not tensors.biases and theirs.startswith("norm"):
                found[f"layers.{layer}.{ours}.bias"] = zeros
    if tensors.final_norm:
        found["norm.weight"] = weights[f"{tensors.prefix}norm.weight"]
        bias = f"{tensors.prefix}norm.bias"
        found["norm.bias"] = weights.get(bias, zeros)
    return found
