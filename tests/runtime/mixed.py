"""A toy model that carries state of every kind at once, and what it gives by plain arithmetic over the whole history.

Every number is a small integer in float32, so that results are exact.

    growing    [batch, past]  all steps
    buffer     [batch, 12]    all steps, behind each other; the rest may hold anything
    window     [batch, 5]     the newest 5 steps, the newest last
    recurrent  [2, batch]     (a, b) -> (S - a, b + 2 a) for S, the sum of the new steps

    y[i] = i + sum(growing) + 2 sum(buffer) + 3 sum(window) + 5 a + 7 b + 11 length + 13 taken, of what was held
    seen = 2 * (growing with the new steps), as long as that is
    last = the new window, with one number more
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

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
from aigc_runtime.core.compare import Tolerance
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, StateSpec, TensorSpec
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines.tensors import Stage, TensorsSettings

from . import toys

BUFFER, WINDOW = 12, 5

STATE = (
    StateSpec(
        input="growing",
        output="grown",
        dtype="float32",
        shape=("batch", "past"),
        axis=1,
        kind="growing",
        step_dim="sequence",
    ),
    StateSpec(
        input="buffer",
        output="written",
        dtype="float32",
        shape=("batch", BUFFER),
        axis=1,
        kind="buffer",
        length_input="length",
        step_dim="sequence",
    ),
    StateSpec(
        input="window",
        output="moved",
        dtype="float32",
        shape=("batch", WINDOW),
        axis=1,
        kind="window",
        length_input="taken",
        step_dim="sequence",
    ),
    StateSpec(input="recurrent", output="replaced", dtype="float32", shape=(2, "batch"), kind="recurrent"),
)
INTERFACE = Interface(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=("batch", "sequence")),
        TensorSpec(name="mask", dtype="bool", shape=("batch", "past+sequence")),
    ),
    outputs=(
        TensorSpec(name="y", dtype="float32", shape=("batch", "sequence")),
        TensorSpec(name="seen", dtype="float32", shape=("batch", "past+sequence")),
        TensorSpec(name="last", dtype="float32", shape=("batch", WINDOW + 1)),
    ),
    dims=(DimSpec(name="batch", max=4), DimSpec(name="sequence", max=8), DimSpec(name="past", min=0, max=16)),
    state=STATE,
)


def function(values: Mapping[str, Array]) -> dict[str, Array]:
    """The model in numpy, one step; `mask` says which of all steps `seen` shows."""
    x, held = values["x"], int(values["length"][0])
    batch, steps = x.shape
    grown = np.concatenate([values["growing"], x], axis=1)
    written = values["buffer"].copy()
    written[:, held : held + steps] = x
    moved = np.concatenate([values["window"], x], axis=1)[:, -WINDOW:]
    a, b = values["recurrent"]
    before = values["growing"].sum(axis=1) + 2 * values["buffer"][:, :held].sum(axis=1)
    before = before + 3 * values["window"].sum(axis=1) + 5 * a + 7 * b + 11 * held + 13 * float(values["taken"][0])
    return {
        "y": (np.arange(steps) + before[:, None]).astype(np.float32),
        "seen": np.where(values["mask"], 2 * grown, 0).astype(np.float32),
        "last": np.concatenate([moved, np.ones((batch, 1))], axis=1).astype(np.float32),
        "grown": grown,
        "written": written,
        "moved": np.ascontiguousarray(moved),
        "replaced": np.stack([x.sum(axis=1) - a, b + 2 * a]).astype(np.float32),
    }


def mask(rows: int, total: int) -> Array:
    """Which steps are shown: not every third."""
    shown: Array = np.broadcast_to(np.arange(total) % 3 != 2, (rows, total)).copy()
    return shown


def expected(history: Sequence[Array]) -> dict[str, Array]:
    """The outputs of the last of several runs, from all that was fed: [batch, steps] each."""
    *earlier, x = history
    rows = len(x)
    held = np.concatenate([np.zeros((rows, 0), np.float32), *earlier], axis=1)
    padded = np.concatenate([np.zeros((rows, WINDOW), np.float32), held], axis=1)
    a, b = np.zeros(rows), np.zeros(rows)
    for one in earlier:
        a, b = one.sum(axis=1) - a, b + 2 * a
    length = held.shape[1]
    before = 3 * held.sum(axis=1) + 3 * padded[:, -WINDOW:].sum(axis=1) + 5 * a + 7 * b + 24 * length
    total = np.concatenate([held, x], axis=1)
    newest = np.concatenate([padded, x], axis=1)[:, -WINDOW:]
    return {
        "y": (np.arange(x.shape[1]) + before[:, None]).astype(np.float32),
        "seen": (2 * total * mask(rows, total.shape[1])).astype(np.float32),
        "last": np.concatenate([newest, np.ones((rows, 1))], axis=1).astype(np.float32),
    }


def draw(rng: np.random.Generator, rows: int, steps: int) -> Array:
    """Small integers."""
    return rng.integers(-4, 5, size=(rows, steps)).astype(np.float32)


def feeds(x: Array, held: int) -> dict[str, Array]:
    """What a run takes on a state that holds so many steps."""
    return {"x": x, "mask": mask(len(x), held + x.shape[1])}


def manifest() -> tuple[Manifest, dict[str, bytes | Path]]:
    """A bundle of the model twice over one carried state: `model` runs the first steps, `decode` those after them."""
    graph = (toys.DATA / "toy_mixed.onnx").read_bytes()
    files: dict[str, bytes | Path] = {"model.onnx": graph, "decode.onnx": graph}

    def store(prefix: str, arrays: Mapping[str, Array]) -> dict[str, str]:
        names = {name: f"{prefix}.{name}.npy" for name in arrays}
        files.update({names[name]: write_npy(array) for name, array in arrays.items()})
        return names

    rng, cases = np.random.default_rng(6), []
    for rows in (1, 3):
        history: list[Array] = []
        steps = []
        for number, count in enumerate((4, 1, 2, 1)):
            held = sum(x.shape[1] for x in history)
            history.append(draw(rng, rows, count))
            prefix = f"ref.{rows}.{number}"
            steps.append(
                ReferenceStep(
                    engine="decode" if number else "model",
                    inputs=store(f"{prefix}.in", feeds(history[-1], held)),
                    outputs=store(f"{prefix}.out", expected(history)),
                )
            )
        cases.append(ReferenceCase(name=f"batch{rows}", steps=tuple(steps)))
    request = draw(rng, 2, 3)
    made = Manifest(
        format="aigc-bundle",
        format_version=1,
        name="toy_mixed",
        target="ort-cpu",
        precision="fp32",
        engines={
            name: EngineInfo(kind="onnxruntime", file=f"{name}.onnx", interface=toys.stored_interface(INTERFACE))
            for name in ("model", "decode")
        },
        state={"carried": STATE},
        files=(),
        shared_files=(),
        assets=(),
        pipeline=PipelineInfo.of(TensorsSettings(stages=(Stage(),)), {"model": "model"}),
        tolerances=Tolerances(
            tensor=Tolerance(max_over_rms=1e-4, min_sqnr_db=80.0),
            min_token_agreement=None,
            min_psnr_db=None,
            max_quality_drop=None,
        ),
        reference=Reference(
            cases=tuple(cases),
            generation=ReferenceGeneration(
                request={},
                arrays=store("ref.generation.in", feeds(request, 0)),
                outputs=store("ref.generation.out", expected([request])),
            ),
        ),
        quality=(),
        model_config={},
        provenance={},
    )
    return made, files
