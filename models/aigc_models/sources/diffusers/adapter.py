"""Adapters (LoRA) of Stable Diffusion: one file under the names of diffusers, old or new, or of kohya's scripts.

| | of a module `a.b` of the UNet | of the text encoder |
| --- | --- | --- |
| diffusers | `unet.a.b.lora_A.weight`, `lora_B` | `text_encoder.text_model.a.b.lora_A.weight` |
| before 0.21 | `unet.a.b.lora.down.weight`, `unet.a.processor.b_lora...` | `...a.b.lora_linear_layer.down.weight` |
| kohya | `lora_unet_a_b.lora_down.weight`, `lora_up`, `alpha` | `lora_te_text_model_a_b.lora_down.weight` |
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aigc_models.sources.lora.request import LoraRequest, parse_lora
from aigc_models.weights.load_into import require_finite
from aigc_models.weights.stored_weights import StoredWeights
from aigc_runtime.errors import AdapterError, CheckpointError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.user_file import is_folder, path_exists

__all__ = ["PARTIAL", "DiffusionAdapter", "LowRank", "open_adapters", "parse_name", "some"]

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps ranks and alphas since 0.34."""
UNET, TEXT_ENCODER, TEXT_ENCODER_2 = "unet", "text_encoder", "text_encoder_2"

_ROLES = {
    "down": r"\.lora_A|\.lora\.down|\.lora_linear_layer\.down|\.lora_down|_lora\.down",
    "up": r"\.lora_B|\.lora\.up|\.lora_linear_layer\.up|\.lora_up|_lora\.up",
}
_MATRIX = re.compile("|".join(f"(?P<{role}>{ends})" for role, ends in _ROLES.items()))
_KOHYA = {
    "lora_unet_": UNET,
    "lora_te_text_model_": TEXT_ENCODER,
    "lora_te1_text_model_": TEXT_ENCODER,
    "lora_te2_text_model_": TEXT_ENCODER_2,
    "lora_te2_": TEXT_ENCODER_2,
}
_PLAIN = {"unet.": UNET, "text_encoder.": TEXT_ENCODER, "text_encoder_2.": TEXT_ENCODER_2}
_OUT = re.compile(r"\.to_out$")
_SHOWN = 4
_HINT = (
    "supported are pairs of matrices with their alpha, of linear layers and convolutions of the UNet and the text "
    "encoder, under the names of diffusers or kohya's scripts; others can be fused in diffusers: fuse_lora(), then "
    "save_pretrained()"
)

PARTIAL = "--lora-partial leaves out what is not known"


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The tensors of a module, by their names in the file.

    Attributes:
        down: [r, inputs], or [r, inputs, k, k] of a convolution.
        up: [outputs, r], or [outputs, r, 1, 1].
        alpha: what the product is multiplied by, times r; empty where the file has none.
    """

    down: str
    up: str
    alpha: str = ""


@dataclass(frozen=True, kw_only=True)
class DiffusionAdapter:
    """An adapter that was opened.

    Attributes:
        request: what the user asked for.
        weights: of the file.
        modules: component -> module, with `_` for every dot where the file is kohya's -> its tensors.
        scales: component -> alpha / r, where the file says it of all modules.
        partial: whether what the model does not have is left out instead of refused.
        unknown: names of tensors that are left out, of which nothing is known.
    """

    request: LoraRequest
    weights: StoredWeights
    modules: Mapping[str, Mapping[str, LowRank]]
    scales: Mapping[str, float]
    partial: bool = False
    unknown: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Its path, for messages."""
        return str(self.request.path)

    @property
    def sha256(self) -> str:
        """Digest of the file and the scale, and of whether a part is enough."""
        partial = "partial\n" if self.partial else ""
        return hashlib.sha256(f"{self.weights.sha256}\n{self.request.scale!r}\n{partial}".encode()).hexdigest()

    def shape(self, low: LowRank) -> tuple[int, ...]:
        """The shape of what is added.

        Raises:
            CheckpointError: matrices that have no product.
        """
        described = self.weights.described()
        down, up = tuple(described[low.down].shape), tuple(described[low.up].shape)
        fits = len(down) == len(up) in (2, 4) and down[0] == up[1] and math.prod(up[2:]) == 1
        if not fits or (low.alpha and described[low.alpha].numel() != 1):
            raise CheckpointError(
                f"the adapter {self.where!r}: {low.down!r} and {low.up!r} are of {list(down)} and {list(up)}",
                hint=_HINT,
            )
        return (up[0], *down[1:])

    def added(self, component: str, low: LowRank) -> Tensor:
        """Compute what is added to a weight: scale * alpha / r * up @ down, in float32.

        Raises:
            CheckpointError: it holds what is no number, or the file was changed.
        """
        down, up = self._read(low.down), self._read(low.up)
        scale = self.scales.get(component, 1.0) if not low.alpha else float(self._read(low.alpha)) / down.shape[0]
        product = up.flatten(1) @ down.flatten(1)
        return self.request.scale * scale * product.view(up.shape[0], *down.shape[1:])

    def _read(self, name: str) -> Tensor:
        tensor = self.weights[name].float()
        require_finite({name: tensor}, self.where)
        return tensor


def some(names: Sequence[str]) -> str:
    """The first of several names, and how many there are more.

    >>> some(["a", "b", "c", "d", "e", "f"])
    "'a', 'b', 'c', 'd' and 2 more"
    """
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(shown, names[:_SHOWN])) + more


def open_adapters(texts: Sequence[str], *, partial: bool = False) -> tuple[DiffusionAdapter, ...]:
    """Open adapters as `--lora` names them, in their order.

    Args:
        texts: `FILE[:SCALE]`, or a folder with pytorch_lora_weights.safetensors.
        partial: leave out what is not known instead of refusing it.

    Raises:
        AdapterError: one has tensors that are not supported; names them.
        CheckpointError: one is missing or damaged.
        ConfigError: a scale that is no number.
    """
    return tuple(_open(parse_lora(text), partial=partial) for text in texts)


def _open(request: LoraRequest, *, partial: bool) -> DiffusionAdapter:
    path = request.path / WEIGHTS_FILE if is_folder(request.path) else request.path
    if not path_exists(path):
        raise CheckpointError(
            f"no adapter at {str(path)!r}", hint=f"--lora names a .safetensors file, or a folder with {WEIGHTS_FILE}"
        )
    weights = StoredWeights(path)
    found: dict[tuple[str, str], dict[str, str]] = {}
    unknown: list[str] = []
    for name in weights:
        parsed = parse_name(name)
        if parsed is None:
            unknown.append(name)
            continue
        component, module, role = parsed
        found.setdefault((component, module), {})[role] = name
    alone = [next(iter(parts.values())) for parts in found.values() if not {"down", "up"} <= parts.keys()]
    unknown.sort()
    if unknown and not partial:
        raise AdapterError(
            f"the adapter {str(path)!r} has tensors that are not supported: {some(unknown)}",
            hint=f"{_HINT}; {PARTIAL}",
        )
    if alone:
        raise CheckpointError(
            f"the adapter {str(path)!r} has tensors that are not supported, halves of pairs: {some(alone)}", hint=_HINT
        )
    if not found:
        but = f" that are supported, but {some(unknown)}" if unknown else ""
        raise CheckpointError(f"the adapter {str(path)!r} has no tensors{but}", hint=_HINT)
    modules: dict[str, dict[str, LowRank]] = {}
    for (component, module), parts in found.items():
        modules.setdefault(component, {})[module] = LowRank(**parts)
    return DiffusionAdapter(
        request=request,
        weights=weights,
        modules=modules,
        scales=_scales(weights, str(path)),
        partial=partial,
        unknown=tuple(unknown),
    )


def parse_name(name: str) -> tuple[str, str, str] | None:
    """Read which component, which module and which of its tensors a name means; None for none that is known.

    >>> parse_name("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight")
    ('unet', 'mid_block_attentions_0_proj_in', 'down')
    >>> parse_name("unet.mid_block.attentions.0.proj_in.lora_B.weight")
    ('unet', 'mid_block.attentions.0.proj_in', 'up')
    """
    if name.endswith(".alpha"):
        bare, role = name.removesuffix(".alpha"), "alpha"
    else:
        bare = name.removesuffix(".weight")
        matrix = _MATRIX.search(bare)
        if bare == name or matrix is None or matrix.end() != len(bare):
            return None
        bare, role = bare[: matrix.start()], str(matrix.lastgroup)
    for prefix, component in _KOHYA.items():
        if bare.startswith(prefix):
            return component, bare.removeprefix(prefix), role
    for prefix, component in _PLAIN.items():
        if bare.startswith(prefix):
            module = bare.removeprefix(prefix).removeprefix("text_model.").replace(".processor.", ".")
            return component, _OUT.sub(".to_out.0", module), role
    return None


def _scales(weights: StoredWeights, where: str) -> dict[str, float]:
    """What diffusers says beside the tensors: alpha / r of each component."""
    raw = weights.metadata.get(METADATA)
    if raw is None:
        return {}
    try:
        values = json.loads(raw)
        said: dict[str, Any] = dict(values)
    except (ValueError, TypeError) as err:
        raise CheckpointError(f"the adapter {where!r}: its metadata are damaged: {err}", hint="get it again") from err
    scales = {}
    for component in (UNET, TEXT_ENCODER, TEXT_ENCODER_2):
        own = {key.removeprefix(f"{component}."): v for key, v in said.items() if key.startswith(f"{component}.")}
        if odd := [key for key in _NOT_DONE if own.get(key)]:
            raise CheckpointError(
                f"the adapter {where!r}: its metadata say {component}.{odd[0]} {shown(own[odd[0]])}, "
                "which is not supported",
                hint=_HINT,
            )
        rank, alpha = own.get("r"), own.get("lora_alpha")
        if isinstance(rank, int) and isinstance(alpha, (int, float)) and rank > 0:
            scales[component] = alpha / rank
    return scales


_NOT_DONE: Collection[str] = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora", "lora_bias", "fan_in_fan_out")
