"""Which calibration data a model gets: its own by default, or the user's text, images or arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data import ArrayData, CalibrationData, DiffusionData, GanData, ImageData, TextData
from aigc_calibration.errors import CalibrationError
from aigc_calibration.floatgraph import Interface
from aigc_export.capture import example_sizes
from aigc_models.spec import ExportSpec, example_feeds
from aigc_models.training.data import load_images, read_text, standard_library_text
from aigc_runtime.manifest import DiffusionSettings, TextSettings
from aigc_runtime.tensors import Array
from aigc_runtime.tokenizers import make_tokenizer

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ExampleData", "calibration_data", "interface_of"]


@dataclass(frozen=True, kw_only=True)
class ExampleData:
    """One batch of the model's example inputs: enough to count a graph's work on, not to calibrate it.

    Attributes:
        spec: of the model.
        seed: of the numbers.
    """

    spec: ExportSpec
    seed: int = 0

    @property
    def samples(self) -> int:
        """Of the one batch."""
        return len(next(iter(self._feeds().values())))

    @property
    def rows(self) -> int:
        """One for every sample."""
        return self.samples

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """The batch."""
        yield self._feeds()

    def _feeds(self) -> dict[str, Array]:
        return example_feeds(self.spec, example_sizes(self.spec), seed=self.seed)


def interface_of(spec: ExportSpec) -> Interface:
    """What calibration needs to know of a model."""
    return Interface(inputs=spec.inputs, outputs=spec.outputs, dims=spec.dims, state=spec.state, settings=spec.settings)


def calibration_data(interface: Interface, *, path: Path | str | None, samples: int, seed: int) -> CalibrationData:
    """Samples for a model.

    Args:
        interface: of the model.
        path: the user's text (a file or folder), images (a folder with one sub-folder per class) or `.npz`; None takes
            the standard library's sources for text, and what the pipeline itself draws for images.
        samples: how many.
        seed: of the choice.

    Raises:
        CalibrationError: data that cannot calibrate this model; says what is expected.
        InputError: files that cannot be read.
    """
    settings = interface.settings
    if path is not None and Path(path).suffix.lower() == ".npz":
        arrays = _read_npz(Path(path))
        context = arrays.get("encoder_hidden_states")
        if isinstance(settings, DiffusionSettings) and context is not None and len(arrays) == 1:
            return DiffusionData(interface=interface, samples=samples, seed=seed, context=context)
        return ArrayData(interface=interface, arrays={name: array[:samples] for name, array in arrays.items()})
    if isinstance(settings, TextSettings):
        return TextData(interface=interface, tokens=_tokens(settings, path), samples=samples, seed=seed)
    if isinstance(settings, DiffusionSettings):
        if path is None:
            return DiffusionData(interface=interface, samples=samples, seed=seed)
        channels, height, width = settings.sample_shape
        if height != width:
            raise CalibrationError(f"images for samples of {height} x {width}", hint="give an .npz in place of images")
        images = load_images(path, size=height, channels=channels)
        return ImageData(
            interface=interface,
            images=images.train.numpy(),
            labels=images.train_labels.numpy(),
            samples=samples,
            seed=seed,
        )
    if path is not None:
        raise CalibrationError(
            f"{str(path)!r} was given for a GAN, which draws its own latents",
            hint="leave it out, or give an .npz with latents and class_labels",
        )
    return GanData(interface=interface, samples=samples, seed=seed)


def _tokens(settings: TextSettings, path: Path | str | None) -> Array:
    data = standard_library_text().train.tobytes() if path is None else read_text(path)
    return make_tokenizer(settings.tokenizer).encode(data.decode("utf-8", errors="replace"))


def _read_npz(path: Path) -> dict[str, Array]:
    """Arrays of an .npz; nothing in it is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except OSError as err:
        raise CalibrationError(f"cannot read {str(path)!r}: {err.strerror or err}", hint="check the path") from err
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as err:
        raise CalibrationError(
            f"{str(path)!r} is not an .npz of plain arrays: {err}", hint="write it with numpy.savez, without objects"
        ) from err
