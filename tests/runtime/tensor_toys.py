"""A program of three engines, encoder, loop and decoder, whose results follow from a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.bundle.manifest import (
    EngineInfo,
    Manifest,
    PipelineInfo,
    Reference,
    ReferenceCase,
    ReferenceGeneration,
    ReferenceStep,
    Tolerances,
)
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines.tensors import Stage, TensorsPipeline, TensorsSettings

from . import toys

REPEAT = 3
SETTINGS = TensorsSettings(
    stages=(
        Stage(role="encoder"),
        Stage(role="loop", repeat=REPEAT, feedback={"code_next": "code"}),
        Stage(role="decoder"),
    )
)
ROLES = {"encoder": "encoder", "loop": "loop", "decoder": "decoder"}
DIMS = (DimSpec(name="batch", max=8),)
INPUTS: dict[str, Array] = {
    "image": np.array([[1, 2, 3, 6], [0, -2, 4, 2]], np.float32),
    "shift": np.array([[10], [20]], np.float32),
}


def floats(name: str, size: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=("batch", size))


INTERFACES = {
    "encoder": Interface(inputs=(floats("image", 4),), outputs=(floats("code", 2), floats("scale", 1)), dims=DIMS),
    "loop": Interface(
        inputs=(floats("code", 2), floats("scale", 1)), outputs=(floats("code_next", 2), floats("gap", 2)), dims=DIMS
    ),
    "decoder": Interface(
        inputs=(floats("code_next", 2), floats("shift", 1)),
        outputs=(floats("picture", 2), TensorSpec(name="label", dtype="int64", shape=("batch",))),
        dims=DIMS,
    ),
}


def encode(values: Mapping[str, Array]) -> dict[str, Array]:
    image = values["image"]
    return {
        "code": np.stack([image[:, :2].sum(1), image[:, 2:].sum(1)], axis=1),
        "scale": image.mean(axis=1, keepdims=True),
    }


def loop(values: Mapping[str, Array]) -> dict[str, Array]:
    code_next = values["code"] / np.float32(2) + values["scale"]
    return {"code_next": code_next, "gap": code_next - values["code"]}


def decode(values: Mapping[str, Array]) -> dict[str, Array]:
    picture = values["code_next"] + values["shift"]
    return {"picture": picture, "label": picture.argmax(axis=1)}


FUNCTIONS = {"encoder": encode, "loop": loop, "decoder": decode}


def expected(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The results in closed form: code_k = code / 2^k + 2 (1 - 2^-k) scale, the sum of a geometric series."""
    image = inputs["image"].astype(np.float64)
    code, scale = np.stack([image[:, :2].sum(1), image[:, 2:].sum(1)], axis=1), image.mean(axis=1)[:, None]
    last, before = (code * 0.5**k + 2 * (1 - 0.5**k) * scale for k in (REPEAT, REPEAT - 1))
    picture = last + inputs["shift"]
    return {"gap": last - before, "picture": picture, "label": (picture[:, 1] > picture[:, 0]).astype(np.int64)}


def program() -> OpenProgram:
    return OpenProgram({name: ArraySession(FUNCTIONS[name], INTERFACES[name]) for name in ROLES})


def pipeline() -> TensorsPipeline:
    return TensorsPipeline(program(), SETTINGS, ROLES)


def manifest() -> tuple[Manifest, dict[str, bytes | Path]]:
    """A bundle's manifest and files around the three graphs in data/."""
    files: dict[str, bytes | Path] = {f"{name}.onnx": (toys.DATA / f"toy_{name}.onnx").read_bytes() for name in ROLES}

    def store(prefix: str, arrays: Mapping[str, Array]) -> dict[str, str]:
        names = {name: f"{prefix}.{name}.npy" for name in arrays}
        files.update({names[name]: write_npy(array) for name, array in arrays.items()})
        return names

    steps, tensors = [], dict(INPUTS)
    for name, interface in INTERFACES.items():
        feeds = {spec.name: tensors[spec.name] for spec in interface.inputs}
        given = FUNCTIONS[name](feeds)
        tensors.update(given)
        steps.append(
            ReferenceStep(engine=name, inputs=store(f"ref.{name}.in", feeds), outputs=store(f"ref.{name}.out", given))
        )
    made = Manifest(
        format="aigc-bundle",
        format_version=1,
        name="toy_tensors",
        target="ort-cpu",
        precision="fp32",
        engines={
            name: EngineInfo(kind="onnxruntime", file=f"{name}.onnx", interface=toys.stored_interface(interface))
            for name, interface in INTERFACES.items()
        },
        state={},
        files=(),
        shared_files=(),
        assets=(),
        pipeline=PipelineInfo.of(SETTINGS, ROLES),
        tolerances=Tolerances(
            tensor=Tolerance(max_over_rms=1e-4, min_sqnr_db=80.0),
            min_token_agreement=None,
            min_psnr_db=None,
            max_quality_drop=None,
        ),
        reference=Reference(
            cases=(ReferenceCase(name="case", steps=tuple(steps)),),
            generation=ReferenceGeneration(
                request={},
                arrays=store("ref.generation.in", INPUTS),
                outputs=store("ref.generation.out", pipeline().generate(INPUTS)),
            ),
        ),
        quality=(),
        model_config={},
        provenance={},
    )
    return made, files


def write(folder: Path) -> Path:
    """Write the bundle and return its path."""
    made, files = manifest()
    write_bundle(folder / "toy_tensors", made, files)
    return folder / "toy_tensors"
