"""Choose the calibration data of a model: its own by default, or the user's text, images or arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from aigc_calibration.subject import Subject
from aigc_export.graphs.capture import run_sizes
from aigc_export.prepare.image_folder import find_images, read_images
from aigc_models.data.text_data import MIN_SEARCHED_PIECE, SEPARATOR, standard_library_text
from aigc_models.data.text_files import read_text_files
from aigc_models.evaluation.evaluation import text_tokens
from aigc_models.program import Part, Program, example_feeds
from aigc_runtime.core.tensors import Array
from aigc_runtime.pipelines.settings import DiffusionSettings, TextSettings

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ExampleData", "calibration_data", "described", "subject_of"]


@dataclass(frozen=True, kw_only=True)
class ExampleData:
    """One batch of the model's example inputs: enough to count a graph's work on, not to calibrate it.

    Attributes:
        part: of a program.
        seed: of the numbers.
    """

    part: Part
    seed: int = 0

    @property
    def samples(self) -> int:
        """Number of samples in the one batch."""
        return len(next(iter(self._feeds().values())))

    @property
    def rows(self) -> int:
        """Number of rows: one for every sample."""
        return self.samples

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Yield the one batch."""
        yield self._feeds()

    def _feeds(self) -> dict[str, Array]:
        return example_feeds(self.part, run_sizes(self.part)[0], seed=self.seed)


def subject_of(program: Program) -> Subject:
    """Make the subject of calibration from a program."""
    return Subject(interface=program.part.interface, settings=program.settings)


def calibration_data(
    subject: Subject,
    *,
    path: Path | str | None,
    samples: int,
    seed: int,
    own_text: Sequence[bytes] = (),
    held_out: Sequence[bytes] = (),
) -> CalibrationData:
    """Make the calibration samples of a model.

    Args:
        subject: the interface and settings of the model.
        path: the user's text (a file or folder), images (a folder, see `image_folder.find_images`) or `.npz`; None
            takes the checkpoint's own text, else the standard library's sources; for images, what the pipeline itself
            draws.
        samples: how many, at most.
        seed: of the choice.
        own_text: what the checkpoint keeps of the text that it was trained on, in pieces.
        held_out: the text that quality is measured on, in pieces: where it stands in the user's text, it is left out.

    Raises:
        CalibrationError: data that cannot calibrate this model; says what is expected.
        InputError: files that cannot be read.
    """
    settings = subject.settings
    if path is not None and Path(path).suffix.lower() == ".npz":
        return _from_arrays(subject, NpzRows(Path(path)), samples, seed)
    if isinstance(settings, TextSettings):
        text = _text(path, own_text, held_out)
        return TextData(subject=subject, tokens=text_tokens(settings, text), samples=samples, seed=seed)
    if isinstance(settings, DiffusionSettings):
        if path is None:
            return DiffusionData(subject=subject, samples=samples, seed=seed)
        found = find_images(path, settings.num_classes, settings.class_names)
        found = found.draw(samples, np.random.default_rng(seed))
        images = read_images(found, settings.sample_shape)
        return ImageData(
            subject=subject,
            images=images.pixels,
            labels=found.labels,
            samples=samples,
            seed=seed,
            notes=images.notes,
        )
    if path is not None:
        raise CalibrationError(
            f"{str(path)!r} was given for a GAN, which draws its own latents",
            hint=f"leave it out, or give an .npz: {expected_arrays(subject)}",
        )
    return GanData(subject=subject, samples=samples, seed=seed)


def described(data: CalibrationData) -> str:
    """Describe the samples for a stage's line."""
    if isinstance(data, ArrayData) and data.samples < data.total:
        return f"{data.samples} of {data.total} rows"
    notes = f" of {'; '.join(data.notes)}" if isinstance(data, ImageData) and data.notes else ""
    return f"{data.samples} samples{notes}"


def _from_arrays(subject: Subject, source: NpzRows, samples: int, seed: int) -> CalibrationData:
    names = source.columns.keys()
    if isinstance(subject.settings, DiffusionSettings) and CONTEXT in names <= {CONTEXT, NULL_CONTEXT}:
        return DiffusionData(
            subject=subject,
            samples=samples,
            seed=seed,
            context=_read(source, CONTEXT, samples, seed),
            null_context=_read(source, NULL_CONTEXT, samples, seed) if NULL_CONTEXT in names else None,
        )
    return ArrayData(subject=subject, source=source, most=samples, seed=seed)


def _read(source: NpzRows, name: str, samples: int, seed: int) -> Array:
    """Read at most as many rows of an array as there are samples."""
    column = source.columns[name]
    if not column.shape or 0 in column.shape:
        return column.stand_in()
    return np.stack(list(source.rows(name, choose_rows(column.shape[0], samples, seed), whole=True)))


def _text(path: Path | str | None, own_text: Sequence[bytes], held_out: Sequence[bytes]) -> Array:
    """Read the text to calibrate on, [N] uint8."""
    if path is None:
        return _joined(own_text) if own_text else standard_library_text().train
    texts = read_text_files(path, error=CalibrationError).texts
    text = _joined([_without(text, held_out) for text in texts])
    if texts and not len(text):
        raise CalibrationError(
            f"all of the calibration text {str(path)!r} is text that quality is measured on",
            hint="calibrate on other text, such as what the model was trained on",
        )
    return text


def _joined(pieces: Sequence[bytes]) -> Array:
    return np.frombuffer(SEPARATOR.join(piece for piece in pieces if piece), np.uint8)


def _without(text: bytes, held_out: Sequence[bytes]) -> bytes:
    """Remove from a text the pieces that quality is measured on: whole files or their ends; short pieces anywhere."""
    for piece in held_out:
        if len(piece) >= MIN_SEARCHED_PIECE:
            front, _, back = text.rpartition(piece)
            text = front + back
    return text
