"""One component of a pipeline with its weights: its own folder, and a program where it is exported alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from aigc_models.families.clip_text import ClipText
from aigc_models.families.tiny_vae import AutoencoderTiny
from aigc_models.families.tiny_vae_config import TinyVaeConfig
from aigc_models.families.vae import AutoencoderKL
from aigc_models.program import Part, Program
from aigc_models.sources.diffusers.autoencoder import VAE_CLASS, AnyVaeConfig, read_autoencoder, read_vae
from aigc_models.sources.diffusers.components import read_json
from aigc_models.sources.diffusers.text_encoder import clip_tensor, read_clip_text
from aigc_models.sources.diffusers.weights import (
    FILES,
    TRANSFORMERS_FILES,
    Renamed,
    find_component,
    open_component,
    our_name,
)
from aigc_models.text_to_image_program import Autoencoder, text_encoder_part, vae_parts
from aigc_models.weights.before_memory import check_before_memory
from aigc_models.weights.checkpoint import Checkpoint
from aigc_models.weights.stored_weights import HashedWeights, WeightsReader
from aigc_models.weights.stream_into import build_undrawn, stream_into
from aigc_models.weights.weights_file import CONFIG_FILE
from aigc_runtime.bundle.engine_info import MAIN_ENGINE
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.printable import shown
from aigc_runtime.io.user_file import is_folder
from aigc_runtime.pipelines.tensors import Stage, TensorsSettings
from aigc_runtime.pipelines.text_to_image_settings import MEAN

__all__ = [
    "CLIP_WEIGHTS",
    "LoadedComponent",
    "WeightsForm",
    "load_autoencoder",
    "load_component",
    "load_text_encoder",
    "load_vae",
    "open_vae",
]

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class WeightsForm:
    """How a library writes the weights of a component.

    Attributes:
        files: what they may be called, the first that is there counts.
        rename: their name -> ours; None for a tensor that is not read.
    """

    files: tuple[str, ...] = FILES
    rename: Callable[[str], str | None] = our_name


CLIP_WEIGHTS = WeightsForm(files=TRANSFORMERS_FILES, rename=clip_tensor)


@dataclass(frozen=True, kw_only=True)
class LoadedComponent(Generic[M]):
    """A component with its weights.

    Attributes:
        module: for inference.
        tensors: as they are on the disk.
        path: of the weights.
        notes: for the user.
    """

    module: M
    tensors: HashedWeights
    path: Path
    notes: tuple[str, ...] = ()


def load_component(
    build: Callable[[], M],
    path: Path,
    form: WeightsForm = WeightsForm(),
    *,
    merge: Callable[[WeightsReader], WeightsReader] | None = None,
) -> LoadedComponent[M]:
    """Load the weights of a component.

    Args:
        build: makes the module.
        path: of the component's folder, or of its weights.
        form: how they were written.
        merge: the weights under our names -> the same with adapters in them; None for none.

    Raises:
        CheckpointError: there are none, or damaged or foreign ones.
        ConfigError: more memory is needed than is free.
    """
    place = find_component(path, form.files)
    stored = open_component(place.weights)
    renamed: WeightsReader = Renamed(stored, form.rename)
    renamed = renamed if merge is None else merge(renamed)
    check_before_memory(build, renamed.described(), source=str(place.weights))
    module = build_undrawn(build)
    converted = stream_into(module, renamed, source=str(place.weights))
    module.eval()
    return LoadedComponent(
        module=module,  # type: ignore[arg-type]  # what `build` makes
        tensors=stored,
        path=place.weights,
        notes=(*place.notes, *stored.notes, *converted),
    )


def open_vae(path: Path) -> LoadedComponent[AutoencoderKL]:
    """Load an AutoencoderKL as a module.

    Args:
        path: of its folder, or of the weights in it.

    Raises:
        CheckpointError: another component, or see `load_component`.
        ConfigError: see `load_component`, or sizes that make no model.
    """
    values = read_json(_folder(path) / CONFIG_FILE)
    if values.get("_class_name") != VAE_CLASS:
        raise CheckpointError(
            f"{CONFIG_FILE} of {str(path)!r}: _class_name is {shown(values.get('_class_name'))}",
            hint=f"expected the folder of an {VAE_CLASS}",
        )
    config = read_vae(values)
    return load_component(lambda: AutoencoderKL(config), path)


def load_autoencoder(config: AnyVaeConfig, path: Path) -> LoadedComponent[Autoencoder]:
    """Load the weights of an autoencoder.

    Args:
        config: of either class.
        path: of its folder, or of its weights.

    Raises:
        CheckpointError: see `load_component`.
        ConfigError: likewise.
    """
    return load_component(
        lambda: AutoencoderTiny(config) if isinstance(config, TinyVaeConfig) else AutoencoderKL(config), path
    )


def load_vae(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load an autoencoder alone: a picture goes in, its latent (mean and deviation) and the decoded mean come out.

    Args:
        path: of its folder, or of the weights in it.
        source: as the user named it.
        options: of the export: `dynamic_size`.

    Raises:
        CheckpointError: see `load_component`.
        ConfigError: likewise, or sizes that make no model.
    """
    values = read_json(_folder(path) / CONFIG_FILE)
    config = read_autoencoder(values)
    loaded = load_autoencoder(config, path)
    fixed = options.get("dynamic_size") is False
    decoder, encoder = vae_parts(
        loaded.module,
        latent_size=config.sample_size // config.downscale if fixed else None,
        picture="picture",
        latent=MEAN,
        latent_sides=("latent_height", "latent_width"),
    )
    side = config.sample_size // config.downscale
    sizes = {"height": side * config.downscale, "width": side * config.downscale, "latent_height": side}
    sizes["latent_width"] = side
    return _in_a_row((encoder, decoder), {} if fixed else sizes, values, loaded, path, source)


def load_text_encoder(path: Path, *, source: str, options: Mapping[str, Any]) -> Program:
    """Load a CLIPTextModel alone: token ids go in, hidden states come out.

    Args:
        path: of its folder, or of the weights in it.
        source: as the user named it.
        options: of the export; it has none that change anything.

    Raises:
        CheckpointError: see `load_component`.
        ConfigError: likewise, or sizes that make no model.
    """
    values = read_json(_folder(path) / CONFIG_FILE)
    config = read_clip_text(values)
    loaded: LoadedComponent[ClipText] = load_component(lambda: ClipText(config), path, CLIP_WEIGHTS)
    part = text_encoder_part(loaded.module, config.max_position_embeddings, name=MAIN_ENGINE)
    return _in_a_row((part,), {}, values, loaded, path, source)


def _in_a_row(
    parts: tuple[Part, ...],
    sizes: Mapping[str, int],
    values: Mapping[str, Any],
    loaded: LoadedComponent[Any],
    path: Path,
    source: str,
) -> Program:
    return Program(
        name=_folder(path).resolve().name or "component",
        kind="tensors",
        parts={part.name: part for part in parts},
        engines={part.name: part.name for part in parts},
        settings=TensorsSettings(stages=tuple(Stage(role=part.name) for part in parts), typical_sizes=dict(sizes)),
        model_config=values,
        checkpoint=Checkpoint(config=dict(values), tensors=loaded.tensors, path=loaded.path),
        source=source,
        notes=loaded.notes,
    )


def _folder(path: Path) -> Path:
    return path if is_folder(path) else path.parent
