"""Tensors of the verb `generate`: .npy files go in, one .npz comes out."""

from __future__ import annotations

import zipfile
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import InputError, UnknownNameError
from aigc_runtime.io.arguments import text_argument
from aigc_runtime.io.npy import read_npy, write_npy
from aigc_runtime.io.printable import shown
from aigc_runtime.io.publish import atomic_file
from aigc_runtime.io.report import emit_json, say_written
from aigc_runtime.io.user_file import read_file
from aigc_runtime.pipelines.kind import Option, Verb
from aigc_runtime.pipelines.limits import MAX_NUMBERS
from aigc_runtime.pipelines.options import OUTPUT
from aigc_runtime.pipelines.tensors import TensorsPipeline

__all__ = ["TENSORS_VERB"]

_MAX_BYTES = 4 * MAX_NUMBERS

INPUT = Option(
    flags=("--input",),
    name="input",
    group="tensors",
    type=text_argument,
    metavar="NAME=FILE.npy",
    repeated=True,
    help="an input of the model; may be repeated, once for each",
)


@dataclass(frozen=True, kw_only=True)
class _TensorsJob:
    """Arrays to run the engines on.

    Attributes:
        output: the .npz file.
        inputs: arrays by name.
        json: whether to report as JSON.
        written: dtype and shape of what was written, by name.
    """

    output: Path
    inputs: dict[str, Array]
    json: bool
    written: dict[str, tuple[str, list[int]]] = field(default_factory=dict)
    bounds_memory: bool = True

    def run(self, pipeline: TensorsPipeline) -> None:
        """Run the engines and write what they give."""
        results = pipeline.generate(self.inputs)
        with (
            atomic_file(self.output, needed_bytes=sum(array.nbytes for array in results.values())) as file,
            zipfile.ZipFile(file, "w") as archive,
        ):
            for name, array in results.items():
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), write_npy(array))
        self.written.update({name: (str(array.dtype), list(array.shape)) for name, array in results.items()})

    def report(self) -> None:
        """Say what was written."""
        if self.json:
            tensors = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in self.written.items()}
            emit_json("aigc-run-generate-tensors/1", {"output": str(self.output), "tensors": tensors})
            return
        told = ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape) in self.written.items())
        say_written(self.output, f"wrote {self.output}: {told}")


def _prepare(arguments: Namespace, pipeline: TensorsPipeline) -> _TensorsJob:
    if arguments.output is None or Path(arguments.output).suffix.lower() != ".npz":
        raise InputError(
            "tensors need a file" if arguments.output is None else f"cannot write tensors to {arguments.output!r}",
            hint="give -o FILE.npz",
        )
    inputs: dict[str, Array] = {}
    for text in arguments.input or ():
        name, path = _split(text, pipeline)
        if name in inputs:
            raise InputError(f"--input {name} was given twice", hint="give each input once")
        data = read_file(path, limit=_MAX_BYTES)
        inputs[name] = read_npy(data, what=repr(path), error=InputError)
    pipeline.check_inputs(inputs)
    return _TensorsJob(output=Path(arguments.output), inputs=inputs, json=arguments.json)


def _split(text: str, pipeline: TensorsPipeline) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise InputError(f"--input is {shown(text)}", hint="give NAME=FILE.npy")
    if name not in pipeline.inputs:
        raise UnknownNameError("input", name, pipeline.inputs)
    return name, path


TENSORS_VERB = Verb(options=(INPUT, OUTPUT), prepare=_prepare)
