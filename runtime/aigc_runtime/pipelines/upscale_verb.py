"""Pictures of the verb `generate`: one file goes in, and one goes out, row by row of tiles."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError
from aigc_runtime.io.output_file import is_stream
from aigc_runtime.io.png import write_png_bands
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish_checks import check_file
from aigc_runtime.io.report import emit_json, say_written
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.pipelines.options import IMAGE_FILE, OUTPUT
from aigc_runtime.pipelines.picture_files import read_picture
from aigc_runtime.pipelines.upscale import UpscalePipeline, check_overlap, check_picture

__all__ = ["UPSCALE_VERB"]

OVERLAP = Option(
    flags=("--overlap",),
    name="overlap",
    group="upscale",
    type=int,
    help="pixels at a tile's cut edge that are not used (default: the bundle's)",
)


@dataclass(frozen=True, kw_only=True)
class _UpscaleJob:
    """A picture that is to be enlarged, checked against the model.

    Attributes:
        output: the PNG file.
        image: [H, W, channels] uint8.
        overlap: that was asked for.
        notes: what was done to the picture as it was read.
        json: whether to report as JSON.
        written: width, height and channels, once they are known.
    """

    output: Path
    image: Array
    overlap: int | None
    notes: tuple[str, ...]
    json: bool
    written: dict[str, int] = field(default_factory=dict)
    bounds_memory: bool = True

    def run(self, pipeline: UpscalePipeline) -> None:
        """Enlarge the picture and write it as it comes."""
        scale, (h, w, channels) = pipeline.settings.scale, self.image.shape
        progress = _show_progress if sys.stderr.isatty() else None
        bands = pipeline.stream(self.image, overlap=self.overlap, progress=progress)
        write_png_bands(self.output, bands, (scale * h, scale * w, channels))
        self.written.update(width=scale * w, height=scale * h, channels=channels)

    def report(self) -> None:
        """Say what was written."""
        if self.json:
            emit_json(
                "aigc-run-generate-upscale/1",
                {"output": str(self.output), **self.written, "notes": list(self.notes)},
            )
            return
        h, w, _ = self.image.shape
        told = f"wrote {self.output}: {self.written['width']} x {self.written['height']} pixels of {w} x {h}"
        say_written(self.output, "; ".join((told, *self.notes)))


def _prepare(arguments: Namespace, pipeline: UpscalePipeline) -> _UpscaleJob:
    if arguments.image is None:
        raise InputError("no picture was given", hint="give --image FILE")
    if arguments.output is None:
        raise InputError("a picture needs a file", hint="give -o FILE.png")
    output = Path(arguments.output)
    if output.suffix.lower() != ".png":
        check_file(output)
        if not is_stream(output):
            raise InputError(f"cannot write a picture to {shown(arguments.output)}", hint="give -o FILE.png")
    settings = pipeline.settings
    if arguments.overlap is not None:
        check_overlap(arguments.overlap, settings)
    image, notes = read_picture(arguments.image)
    return _UpscaleJob(
        output=output,
        image=check_picture(image, settings),
        overlap=arguments.overlap,
        notes=notes,
        json=arguments.json,
    )


def _show_progress(done: int, total: int) -> None:
    sys.stderr.write(f"\rtile {done}/{total}" + ("\n" if done == total else ""))


UPSCALE_VERB = Verb(options=(IMAGE_FILE, OVERLAP, OUTPUT), prepare=_prepare)
