"""Bring models in: a shipped name, a folder, a GGUF file, or the user's own code, each to a `Program`.

A source of another package registers itself by an entry point `aigc_export.sources`, whose object is a `Source`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from aigc_models.program import Program
from aigc_models.sources.by_keys.load import is_known_network, load_network, outline_network
from aigc_models.sources.checkpoint import outline_checkpoint
from aigc_models.sources.diffusers.which import is_diffusers
from aigc_models.sources.encoder.load import is_encoder, load_encoder, outline_encoder
from aigc_models.sources.function import call_function, names_function
from aigc_models.sources.outline import Outline
from aigc_models.sources.pickled_networks import refuse_pickle
from aigc_models.sources.shipped import ENTRIES, MODELS, load_shipped
from aigc_models.sources.transformers.families import find_family, is_known, is_transformers_config
from aigc_models.weights.weights_file import CONFIG_FILE, GGUF_SUFFIX, is_gguf, shipped_checkpoint
from aigc_runtime.errors import CheckpointError, ConfigError, UnknownNameError
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import path_exists, read_file

__all__ = ["SOURCES", "Found", "Outline", "Source", "kind_of", "outline", "resolve"]

_LOG = logging.getLogger(__name__)

ENTRY_POINTS = "aigc_export.sources"
MAX_CONFIG_BYTES = 16 * 2**20


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a user named, and what is known of it before any weights are read.

    Attributes:
        model: as it was named.
        path: of the folder or file; None where there is none of that name.
        config: the content of its config.json; None where it has none.
    """

    model: str
    path: Path | None
    config: Mapping[str, Any] | None


class Source(Protocol):
    """Brings one kind of model in."""

    def matches(self, found: Found) -> bool:
        """Whether it can load what was found."""
        ...

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        """Load it.

        Args:
            found: what `matches` said yes to.
            options: of the export: `checkpoint`, and those of the model such as `cache`; those not given are missing.

        Raises:
            AigcError: it cannot be used; says why.
        """
        ...

    def outline(self, found: Found) -> Outline:
        """Say what is known of it before any weights are read, and without PyTorch where that can be.

        Args:
            found: what `matches` said yes to.

        Raises:
            AigcError: it could not be loaded; says why.
        """
        ...


def _without_checkpoint(found: Found, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options but `checkpoint`, which means nothing to a model that was named by its own weights.

    Raises:
        ConfigError: it was given.
    """
    given = dict(options)
    if given.pop("checkpoint", None) is not None:
        raise ConfigError(f"{found.model!r} holds its weights itself", hint="leave --checkpoint out")
    return given


class _Shipped:
    """A model by its name."""

    def matches(self, found: Found) -> bool:
        return found.model in MODELS

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        given = dict(options)
        return load_shipped(found.model, checkpoint=given.pop("checkpoint", None), options=given)

    def outline(self, found: Found) -> Outline:
        return outline_checkpoint(shipped_checkpoint(found.model), MODELS[found.model].family)


class _Folder:
    """A checkpoint of one of our own models, as training writes it."""

    def matches(self, found: Found) -> bool:
        return found.config is not None and found.config.get("family") in list(ENTRIES)  # whatever a file has there

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        assert found.config is not None
        given = dict(options)
        if given.pop("checkpoint", None) is not None:
            raise ConfigError(f"{found.model!r} is a checkpoint already", hint="leave --checkpoint out")
        program = load_shipped(str(found.config["family"]), checkpoint=found.path, options=given)
        return replace(program, source=found.model)

    def outline(self, found: Found) -> Outline:
        assert found.path is not None
        assert found.config is not None
        return outline_checkpoint(found.path, str(found.config["family"]))


class _Transformers:
    """A folder that transformers wrote."""

    def matches(self, found: Found) -> bool:
        return found.config is not None and is_known(found.config)

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        from aigc_models.sources.transformers.folder import load_folder

        assert found.path is not None
        assert found.config is not None
        given = _without_checkpoint(found, options)
        return load_folder(found.path, found.config, source=found.model, options=given)

    def outline(self, found: Found) -> Outline:
        from aigc_models.sources.transformers.outline import outline_folder

        assert found.path is not None
        assert found.config is not None
        return outline_folder(found.path, found.config)


class _Diffusers:
    """A pipeline that diffusers wrote, or a component of one."""

    def matches(self, found: Found) -> bool:
        return found.path is not None and is_diffusers(found.path, found.config)

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        from aigc_models.sources.diffusers.load import load_diffusers

        assert found.path is not None
        return load_diffusers(found.path, source=found.model, options=_without_checkpoint(found, options))

    def outline(self, found: Found) -> Outline:
        from aigc_models.sources.diffusers.outline import outline_diffusers

        assert found.path is not None
        return outline_diffusers(found.path)


class _Gguf:
    """A GGUF file of a language model."""

    def matches(self, found: Found) -> bool:
        return found.path is not None and is_gguf(found.path)

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        from aigc_models.sources.gguf.load import load_gguf

        assert found.path is not None
        return load_gguf(found.path, source=found.model, options=_without_checkpoint(found, options))

    def outline(self, found: Found) -> Outline:
        from aigc_models.sources.gguf.outline import outline_gguf

        assert found.path is not None
        return outline_gguf(found.path)


class _ByKeys:
    """A network that is recognized by its tensors, such as a generator that enlarges pictures."""

    def matches(self, found: Found) -> bool:
        return found.path is not None and is_known_network(found.path)

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        assert found.path is not None
        return load_network(found.path, source=found.model, options=_without_checkpoint(found, options))

    def outline(self, found: Found) -> Outline:
        assert found.path is not None
        return outline_network(found.path)


class _Encoder:
    """A state dict of a language model of PyTorch's `nn.TransformerEncoder`."""

    def matches(self, found: Found) -> bool:
        return found.path is not None and is_encoder(found.path, found.config)

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        assert found.path is not None
        given = _without_checkpoint(found, options)
        return load_encoder(found.path, found.config, source=found.model, options=given)

    def outline(self, found: Found) -> Outline:
        assert found.path is not None
        return outline_encoder(found.path, found.config)


class _Function:
    """A function of the user's own."""

    def matches(self, found: Found) -> bool:
        return names_function(found.model)

    def load(self, found: Found, options: Mapping[str, Any]) -> Program:
        if options:
            name = next(iter(options))
            raise ConfigError(
                f"{name} means nothing to a function of your own", hint=f"let {found.model} itself decide about it"
            )
        return call_function(found.model)

    def outline(self, found: Found) -> Outline:
        return Outline(notes=("a function of your own: nothing is known of its model before it runs",))


SOURCES: dict[str, Source] = {
    "shipped": _Shipped(),
    "gguf": _Gguf(),
    "folder": _Folder(),
    "transformers": _Transformers(),
    "diffusers": _Diffusers(),
    "by_keys": _ByKeys(),
    "encoder": _Encoder(),
    "function": _Function(),
}
"""Name -> source, in the order in which they are asked."""


def kind_of(model: str | Program) -> str:
    """The kind of a program, or of a shipped model before it is loaded.

    Raises:
        UnknownNameError: no shipped model of that name.
    """
    if isinstance(model, Program):
        return model.kind
    if model not in MODELS:
        raise UnknownNameError("model", model, MODELS)
    return MODELS[model].kind


def resolve(model: str, *, options: Mapping[str, Any] | None = None) -> Program:
    """Find out what a name stands for, and load it.

    Args:
        model: a shipped name, a folder with config.json and weights, ours, transformers' or diffusers', a GGUF file, a
            state dict of an RRDBNet, an SRVGGNetCompact, a StyleGAN2 or DCGAN generator or an `nn.TransformerEncoder`,
            `file.py:function` or `module:function`.
        options: of the export, such as `{"checkpoint": ..., "cache": "buffer"}`; None values are left out.

    Raises:
        UnknownNameError: nothing of that name; lists the shipped models and the nearest.
        CheckpointError: a folder that no source can load.
        AigcError: what was found cannot be used.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    found = _look(model)
    name, source = _source_of(found)
    _LOG.info("%r is brought in by the source %s", model, name)
    return replace(source.load(found, given), options=given)


def outline(model: str) -> tuple[str, Outline]:
    """Say what a name stands for, without loading it: the name of its source, and what that knows of it.

    Args:
        model: as in `resolve`.

    Raises:
        UnknownNameError: as in `resolve`, as for the next one.
        CheckpointError: likewise.
        AigcError: what was found could not be loaded.
    """
    found = _look(model)
    name, source = _source_of(found)
    return name, source.outline(found)


def _source_of(found: Found) -> tuple[str, Source]:
    model = found.model
    for name, source in (SOURCES | _third_parties()).items():
        if source.matches(found):
            return name, source
    if model.endswith(".py") and path_exists(model):
        raise ConfigError(f"{model!r} is a Python file", hint=f"name a function in it: {model}:make_program")
    if found.config is not None and is_transformers_config(found.config):
        find_family(found.config)  # which says why it is none
    if found.path is not None:
        refuse_pickle(found.path)
        kind = None if found.config is None else next((found.config[k] for k in _KINDS if k in found.config), None)
        says = f"has no {CONFIG_FILE}" if found.config is None else f"is of kind {kind!r}" if kind else "names no model"
        if inside := sorted(path.name for path in found.path.glob(f"*{GGUF_SUFFIX}")):
            raise CheckpointError(
                f"{model!r} {says}, but GGUF files", hint=f"name the one that is meant: {found.path / inside[0]}"
            )
        raise CheckpointError(
            f"{model!r} {says}, which no source can load",
            hint=f"known: checkpoints of {', '.join(ENTRIES)}, of language models as transformers writes them, and "
            f"pipelines of diffusion models as diffusers writes them; "
            f"{_MORE}",
        )
    unknown = UnknownNameError("model", model, MODELS)
    unknown.hint += f"\nThere is no such path either: a folder with {CONFIG_FILE} and weights; {_MORE}"
    raise unknown


_MORE = (
    "GGUF files; state dicts of RRDBNet, SRVGGNetCompact, StyleGAN2, DCGAN and nn.TransformerEncoder (.safetensors, "
    ".pt, .pth); any module of yours by file.py:function"
)


_KINDS = ("family", "model_type", "_class_name", "architectures")
"""Fields of config.json that say what a model is, ours and others'."""


def _look(model: str) -> Found:
    if model in MODELS or names_function(model) or not path_exists(model):
        return Found(model=model, path=None, config=None)
    path = Path(model)
    if is_gguf(path):  # it says itself what it is
        return Found(model=model, path=path, config=None)
    folder = path if path.is_dir() else path.parent
    config: Any = None
    if path_exists(folder / CONFIG_FILE):
        raw = read_file(folder / CONFIG_FILE, limit=MAX_CONFIG_BYTES, error=CheckpointError)
        config = loads_strict(raw, what=str(folder / CONFIG_FILE), error=CheckpointError, written_by_hand=True)
        if not isinstance(config, dict):
            raise CheckpointError(f"{str(folder / CONFIG_FILE)!r} is not a JSON object")
    return Found(model=model, path=path, config=config)


def _third_parties() -> dict[str, Source]:
    from importlib.metadata import entry_points

    sources: dict[str, Source] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            sources[point.name] = point.load()
        except Exception as err:
            raise ConfigError(
                f"the source {point.name!r} of {point.value!r} cannot be loaded: {type(err).__name__}: {err}",
                hint="mend or uninstall the package that registers it",
            ) from err
    return sources
