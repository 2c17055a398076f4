"""Which calibration data a model gets: its own by default, or the user's text, images or arrays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigc_calibration.data import (
    CONTEXT,
    NULL_CONTEXT,
    ArrayData,
    CalibrationData,
    DiffusionData,
    GanData,
    ImageData,
    NpzRows,
    TextData,
    choose_rows,
    expected_arrays,
)
from aigc_calibration.errors import CalibrationError
from aigc_calibration.floatgraph import Interface
from aigc_export.capture import example_sizes
from aigc_export.image_folder import find_images, read_images
from aigc_models.spec import ExportSpec, example_feeds
from aigc_models.training.text_data import read_text, standard_library_text
from aigc_runtime.manifest import DiffusionSettings, TextSettings
from aigc_runtime.tensors import Array
from aigc_runtime.tokenizers import make_tokenizer

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ExampleData", "calibration_data", "described", "interface_of"]

MOST_CONTROL = 1e-3
"""Share of control characters from which on a file is no text."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


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
        path: the user's text (a file or folder), images (a folder, see `image_folder.find_images`) or `.npz`; None
            takes the standard library's sources for text, and what the pipeline itself draws for images.
        samples: how many, at most.
        seed: of the choice.

    Raises:
        CalibrationError: data that cannot calibrate this model; says what is expected.
        InputError: files that cannot be read.
    """
    settings = interface.settings
    if path is not None and Path(path).suffix.lower() == ".npz":
        return _from_arrays(interface, NpzRows(Path(path)), samples, seed)
    if isinstance(settings, TextSettings):
        return TextData(interface=interface, tokens=_tokens(settings, path), samples=samples, seed=seed)
    if isinstance(settings, DiffusionSettings):
        if path is None:
            return DiffusionData(interface=interface, samples=samples, seed=seed)
        found = find_images(path, settings.num_classes, settings.class_names)
        found = found.draw(samples, np.random.default_rng(seed))
        images = read_images(found, settings.sample_shape)
        return ImageData(
            interface=interface,
            images=images.pixels,
            labels=found.labels,
            samples=samples,
            seed=seed,
            told=images.told,
        )
    if path is not None:
        raise CalibrationError(
            f"{str(path)!r} was given for a GAN, which draws its own latents",
            hint=f"leave it out, or give an .npz: {expected_arrays(interface)}",
        )
    return GanData(interface=interface, samples=samples, seed=seed)


def described(data: CalibrationData) -> str:
    """How many samples there are, for a stage's line."""
    if isinstance(data, ArrayData) and data.samples < data.total:
        return f"{data.samples} of {data.total} rows"
    told = f" of {'; '.join(data.told)}" if isinstance(data, ImageData) and data.told else ""
    return f"{data.samples} samples{told}"


def _from_arrays(interface: Interface, source: NpzRows, samples: int, seed: int) -> CalibrationData:
    names = source.columns.keys()
    if isinstance(interface.settings, DiffusionSettings) and CONTEXT in names <= {CONTEXT, NULL_CONTEXT}:
        return DiffusionData(
            interface=interface,
            samples=samples,
            seed=seed,
            context=_read(source, CONTEXT, samples, seed),
            null_context=_read(source, NULL_CONTEXT, samples, seed) if NULL_CONTEXT in names else None,
        )
    return ArrayData(interface=interface, source=source, most=samples, seed=seed)


def _read(source: NpzRows, name: str, samples: int, seed: int) -> Array:
    """At most as many rows of an array as there are samples."""
    column = source.columns[name]
    if not column.shape or 0 in column.shape:
        return column.stand_in()
    return np.stack(list(source.rows(name, choose_rows(column.shape[0], samples, seed), whole=True)))


def _tokens(settings: TextSettings, path: Path | str | None) -> Array:
    if path is None:
        text = standard_library_text().train.tobytes().decode("utf-8", errors="replace")
    else:
        text = _decoded(read_text(path), f"the calibration text {str(path)!r}")
    return make_tokenizer(settings.tokenizer).encode(text)


def _decoded(data: bytes, what: str) -> str:
    """Text of a user's bytes.

    Raises:
        CalibrationError: they are no text.
    """
    expected = "expected UTF-8 text: a file, or a folder of them; or an .npz with one array for every input"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise CalibrationError(
            f"{what} is not UTF-8: byte 0x{data[err.start]:02x} at {err.start:,}", hint=expected
        ) from err
    if (found := len(_CONTROL.findall(text))) > MOST_CONTROL * len(text):
        raise CalibrationError(
            f"{what} is binary: {found:,} of {len(text):,} characters are control characters", hint=expected
        )
    return text
