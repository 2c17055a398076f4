"""An adapter on the disk: its configuration, and which of its tensors belong to which module."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from aigc_models.sources.lora.adapter_config import AdapterConfig, read_adapter_config
from aigc_models.sources.lora.request import LoraRequest, parse_lora
from aigc_models.weights.load_into import require_finite
from aigc_models.weights.stored_weights import StoredWeights
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import is_folder, path_exists, read_file

__all__ = ["Adapter", "LowRank", "digests", "merged_notes", "open_adapter", "open_adapters"]

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
_PREFIX = "base_model.model."
_A, _B, _A_EMBEDDING, _B_EMBEDDING = "lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B"
_MAGNITUDE = ("lora_magnitude_vector", "lora_magnitude_vector.weight")
_ENDS = {_A: "a", _B: "b", _A_EMBEDDING: "a", _B_EMBEDDING: "b", **dict.fromkeys(_MAGNITUDE, "magnitude")}
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out")
"""Modules that peft also saves whole where their vocabulary may have grown."""
_MAX_NAME = 200
_SHOWN = 4
_HINT = "the adapter is damaged, or was not saved by peft: get it again"


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """The tensors of a module, by their names in the file.

    Attributes:
        a: [r, inputs]; of an embedding [r, V].
        b: [outputs, r]; of an embedding [D, r].
        magnitude: [outputs], of DoRA; empty for others.
        embedding: the module is one.
    """

    a: str
    b: str
    magnitude: str = ""
    embedding: bool = False


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter that was opened and checked.

    Attributes:
        request: what the user asked for.
        config: of adapter_config.json.
        weights: of adapter_model.safetensors.
        modules: name of a module of the model -> its tensors.
        replaced: name of a tensor of the model -> name of the one in the file that comes instead.
        config_sha256: digest of adapter_config.json.
    """

    request: LoraRequest
    config: AdapterConfig
    weights: StoredWeights
    modules: Mapping[str, LowRank]
    replaced: Mapping[str, str] = field(default_factory=dict)
    config_sha256: str

    @property
    def where(self) -> str:
        """Its path, for messages."""
        return str(self.request.path)

    @property
    def sha256(self) -> str:
        """Digest of both files and the scale."""
        lines = f"{self.config_sha256}  {CONFIG_FILE}\n{self.weights.sha256}  {WEIGHTS_FILE}\n"
        return hashlib.sha256(f"{lines}{self.request.scale!r}\n".encode()).hexdigest()

    def read(self, name: str) -> Tensor:
        """Read a tensor of the file in float32.

        Raises:
            CheckpointError: it holds what is no number, or the file was changed.
        """
        tensor = self.weights[name].float()
        require_finite({name: tensor}, self.where)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of the file."""
        return tuple(self._described[name].shape)

    def scaling(self, module: str) -> float:
        """What multiplies the product of a module's matrices, the user's scale included."""
        return self.config.scaling(module) * self.request.scale

    @cached_property
    def _described(self) -> dict[str, Tensor]:
        return self.weights.described()


def open_adapters(texts: Sequence[str]) -> tuple[Adapter, ...]:
    """Open adapters as `--lora` names them, in their order; see `open_adapter`."""
    return tuple(open_adapter(parse_lora(text)) for text in texts)


def open_adapter(request: LoraRequest) -> Adapter:
    """Open an adapter's folder.

    Raises:
        CheckpointError: it is missing, damaged, of another kind, or has tensors that are not supported; names them.
    """
    folder = request.path
    if not path_exists(folder):
        raise CheckpointError(f"no adapter at {str(folder)!r}", hint="check the path: --lora names a folder")
    if not is_folder(folder) or not path_exists(folder / CONFIG_FILE):
        raise CheckpointError(f"{str(folder)!r} has no {CONFIG_FILE}", hint=f"--lora names a folder with {_BOTH}")
    if not path_exists(folder / WEIGHTS_FILE):
        pickled = path_exists(folder / "adapter_model.bin")
        raise CheckpointError(
            f"{str(folder)!r} has no {WEIGHTS_FILE}"
            + (", but adapter_model.bin, which is not read" if pickled else ""),
            hint="save it again with peft: save_pretrained(folder, safe_serialization=True)",
        )
    raw = read_file(folder / CONFIG_FILE, limit=MAX_CONFIG_BYTES, error=CheckpointError)
    values = loads_strict(raw, what=str(folder / CONFIG_FILE), error=CheckpointError, written_by_hand=True)
    if not isinstance(values, dict):
        raise CheckpointError(f"{str(folder / CONFIG_FILE)!r} is not a JSON object", hint=_HINT)
    try:
        config = read_adapter_config(values)
    except CheckpointError as err:
        raise CheckpointError(f"the adapter {str(folder)!r}: {err.message}", hint=err.hint) from err
    weights = StoredWeights(folder / WEIGHTS_FILE)
    modules, replaced = _sorted(list(weights), config, str(folder))
    adapter = Adapter(
        request=request,
        config=config,
        weights=weights,
        modules=modules,
        replaced=replaced,
        config_sha256=hashlib.sha256(raw).hexdigest(),
    )
    _check_shapes(adapter)
    return adapter


_BOTH = f"{CONFIG_FILE} and {WEIGHTS_FILE}, as peft saves them"


def digests(adapters: Sequence[Adapter]) -> tuple[tuple[str, str], ...]:
    """Each adapter as it was typed, and its SHA-256."""
    return tuple((adapter.request.text, adapter.sha256) for adapter in adapters)


def merged_notes(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """Say what was merged, a sentence for each."""
    return tuple(
        f"merged the adapter {adapter.where!r} into {len(adapter.modules) + len(adapter.replaced)} modules"
        + (f", times {adapter.request.scale:g}" if adapter.request.scale != 1.0 else "")
        for adapter in adapters
    )


def _sorted(names: list[str], config: AdapterConfig, where: str) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Sort the tensors of a file by the modules that they belong to."""
    found: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    unknown: list[str] = []
    for name in names:
        bare = name.removeprefix(_PREFIX)
        end = next((end for end in _ENDS if bare.endswith(f".{end}")), None)
        if bare == name or len(bare) > _MAX_NAME:
            unknown.append(name)
        elif end is not None:
            module = bare.removesuffix(f".{end}")
            found.setdefault(module, {})[_ENDS[end]] = name
        elif (whole := _whole(bare, config)) is not None:
            replaced[whole] = name
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"the adapter {where!r} has tensors that are not supported: {_some(unknown)}",
            hint="supported are lora_A and lora_B of a module, with DoRA's magnitude, and the weights of "
            "modules_to_save",
        )
    modules = {module: _low_rank(module, parts, config, where) for module, parts in found.items()}
    ends = {module.rpartition(".")[2] for module in modules}
    lacking = [t for t in config.targets if t not in modules and t.rpartition(".")[2] not in ends]
    if not modules or lacking:
        raise CheckpointError(
            f"the adapter {where!r} has no tensors of {', '.join(lacking) or 'any module'}", hint=_HINT
        )
    return modules, replaced


def _whole(bare: str, config: AdapterConfig) -> str | None:
    """The tensor of the model that one of a file comes instead of; None where it is not known to."""
    module, _, kind = bare.rpartition(".")
    plain = module.removesuffix(".base_layer")
    leaf = plain.rpartition(".")[2]
    known = leaf in _EMBEDDINGS or plain.endswith(config.replaced)
    return f"{plain}.{kind}" if known and kind in ("weight", "bias") else None


def _low_rank(module: str, parts: Mapping[str, str], config: AdapterConfig, where: str) -> LowRank:
    needed = {"a", "b", "magnitude"} if config.dora else {"a", "b"}
    embedding = parts.get("a", "").endswith(_A_EMBEDDING)
    if parts.keys() != needed or parts["b"].endswith(_B_EMBEDDING) != embedding:
        raise CheckpointError(
            f"the adapter {where!r} has {', '.join(parts.values())} of {module!r}, and not "
            + ("both matrices and their magnitude" if config.dora else "both matrices alone"),
            hint=_HINT,
        )
    if embedding and config.dora:
        raise CheckpointError(
            f"the adapter {where!r} has DoRA of the embedding {module!r}, which is not supported",
            hint="merge it with peft: merge_and_unload(), and export the merged folder",
        )
    return LowRank(a=parts["a"], b=parts["b"], magnitude=parts.get("magnitude", ""), embedding=embedding)


def _check_shapes(adapter: Adapter) -> None:
    """Check that each module's matrices are of its rank."""
    for module, low in adapter.modules.items():
        a, b, rank = adapter.shape(low.a), adapter.shape(low.b), adapter.config.rank_of(module)
        if len(a) != 2 or len(b) != 2 or (a[0], b[1]) != (rank, rank):
            raise CheckpointError(
                f"the adapter {adapter.where!r}: {module!r} has matrices of {list(a)} and {list(b)}, of rank {rank}",
                hint=f"does {CONFIG_FILE} belong to {WEIGHTS_FILE}?",
            )
        if low.magnitude and adapter.shape(low.magnitude) != (b[0],):
            raise CheckpointError(
                f"the adapter {adapter.where!r}: the magnitude of {module!r} is of "
                f"{list(adapter.shape(low.magnitude))}, expected {[b[0]]}",
                hint=_HINT,
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(shown, names[:_SHOWN])) + more
