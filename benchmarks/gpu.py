"""PyTorch eager against `ort-cuda` and `tensorrt-rtx` on a GPU: the shipped models, one step at batch 1, as ratios.

    .venv/bin/python benchmarks/gpu.py --rounds 7 > table.md

Every bundle is exported here (`--bundles DIR` keeps them for another run) and its engine run on this device. The two
sides alternate; inputs start and results end on the host, and carried state stays on the device, on both sides. Prints
one markdown table for docs/gpu.md, with the device and all versions; a bundle that cannot be exported or run has its
reason in the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_runtime.device.probe import Device, probe_device

if TYPE_CHECKING:
    from aigc_models.program import Part
    from aigc_runtime.core.tensors import Array

MODELS = ("lm", "unet", "gan")
BUNDLES = (("ort-cuda", "fp32"), ("ort-cuda", "fp16"), ("tensorrt-rtx", "fp32"), ("tensorrt-rtx", "fp16"))
TOOLS = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt_rtx")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine beside PyTorch eager in fp32: medians, and the median of the ratios; or why there are none."""

    model: str
    engine: str
    precision: str
    torch_ms: float | None = None
    engine_ms: float | None = None
    speedup: float | None = None
    reason: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=7, help="Alternations A B A B.")
    parser.add_argument("--runs", type=int, default=50, help="Steps per round and side.")
    parser.add_argument("--bundles", type=Path, help="Keep the bundles in this folder, and take those that are there.")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    device = probe_device()
    if (missing := why_not(device)) is not None:
        sys.stderr.write(f"error: {missing}\n")
        return 2
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.bundles or Path(scratch)
        for name in asked.models:
            rows += measure(name, device, folder, rounds=asked.rounds, runs=asked.runs)
    print(json.dumps([asdict(r) for r in rows], indent=2) if asked.json else markdown(rows, device, versions()))
    return 0


def why_not(device: Device) -> str | None:
    """What is missing for a measurement here, or None."""
    if not device.gpus:
        return "no CUDA device that a driver knows: run this on a machine with an NVIDIA GPU"
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} does not reach the GPU: install a CUDA build of it, to compare with"
    return None


class TorchDeviceState:
    """Carried state as tensors on the device, by input name."""

    def __init__(self, part: Part, device: str, batch: int) -> None:
        import torch

        self.specs, self.batch = part.interface.state, batch
        self.length = 0
        self.tensors = {
            s.input: torch.zeros(s.empty_shape(batch), dtype=getattr(torch, s.dtype), device=device)
            for s in part.interface.state
        }

    def truncate(self, length: int) -> None:
        from aigc_runtime.core.state import check_length

        left = check_length(self.specs, self.length, length)
        for spec in self.specs:
            if not spec.behavior.is_steady and spec.axis is not None:
                self.tensors[spec.input] = self.tensors[spec.input].narrow(spec.axis, 0, left)
        self.length = left

    def select(self, rows: Sequence[int]) -> None:
        import torch

        from aigc_runtime.core.state import check_selection

        selected = check_selection(rows, self.batch)
        index = torch.tensor(selected)
        for spec in self.specs:
            tensor = self.tensors[spec.input]
            self.tensors[spec.input] = tensor.index_select(spec.batch_axis, index.to(tensor.device))
        self.batch = len(selected)


class TorchDeviceSession:
    """PyTorch eager on a device as a `Session`: inputs from the host, results to the host, state stays.

    Args:
        part: the model; its module is moved to the device.
        device: PyTorch's name of it.
        half: compute products in fp16 by autocast, which is what the fp16 graphs do by casts.
    """

    def __init__(self, part: Part, device: str, *, half: bool) -> None:
        from aigc_runtime.core.tensors import FeedChecker

        self._part, self._device, self._half = part, device, half
        self._module = part.module.eval().to(device)
        self.interface = part.interface
        self._checker = FeedChecker(part.interface.inputs, part.interface.dims_by_name)
        self.engine_seconds = 0.0

    def new_state(self, batch: int) -> TorchDeviceState:
        return TorchDeviceState(self._part, self._device, batch)

    def run(self, feeds: Mapping[str, Array], state: Any = None) -> dict[str, Array]:
        import torch

        from aigc_runtime.core.state import new_steps

        bound = self._checker.check(feeds)
        started = time.perf_counter()
        tensors: dict[str, Any] = {k: torch.from_numpy(v.copy()).to(self._device) for k, v in feeds.items()}
        if self.interface.state:
            tensors.update(state.tensors)
            length = torch.tensor([state.length], dtype=torch.int64, device=self._device)
            tensors.update(dict.fromkeys(self.interface.length_inputs, length))
        cast = torch.autocast(torch.device(self._device).type, dtype=torch.float16) if self._half else nullcontext()
        with torch.inference_mode(), cast:
            results = self._module(*(tensors[t.name] for t in self.interface.graph_inputs))
        named = dict(zip(self.interface.graph_outputs, results, strict=True))
        if self.interface.state:
            state.tensors = {s.input: named[s.output].to(getattr(torch, s.dtype)) for s in self.interface.state}
            state.length += new_steps(self.interface, bound, state.length)
        arrays = {t.name: named[t.name].float().cpu().numpy() for t in self.interface.outputs}  # waits for the device
        self.engine_seconds += time.perf_counter() - started
        return arrays

    def close(self) -> None:
        self._module = self._module.to("cpu")

    def __enter__(self) -> TorchDeviceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure(name: str, device: Device, folder: Path, *, rounds: int, runs: int) -> list[Row]:
    import torch

    from aigc_export.tools.timing import time_side_by_side
    from aigc_models.sources.shipped import load_shipped

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32 on every side
    eager = TorchDeviceSession(load_shipped(name).part, "cuda", half=False)
    settings = load_shipped(name).settings
    rows = []
    for target, precision in (("PyTorch eager", "fp16"), *BUNDLES):
        candidate, reason = open_candidate(name, target, precision, device, folder)
        if candidate is None:
            rows.append(Row(model=name, engine=target, precision=precision, reason=reason))
            continue
        found = time_side_by_side(eager, candidate, settings, rounds=rounds, runs=runs)
        candidate.close()
        rows.append(
            Row(
                model=name,
                engine=target,
                precision=precision,
                torch_ms=found.reference_ms,
                engine_ms=found.candidate_ms,
                speedup=found.speedup,
            )
        )
    return rows


def open_candidate(name: str, target: str, precision: str, device: Device, folder: Path) -> tuple[Any, str]:
    """A session, or None and why there is none: that is a result too, and goes into the table."""
    from aigc_export.line.exporter import export_model
    from aigc_export.recipes.recipe import export_recipe
    from aigc_export.targets.tensorrt.settings import BuildSettings
    from aigc_models.sources.shipped import load_shipped
    from aigc_runtime.bundle.bundle import Bundle
    from aigc_runtime.errors import AigcError
    from aigc_runtime.opening import open_session

    if target == "PyTorch eager":
        return TorchDeviceSession(load_shipped(name).part, "cuda", half=precision == "fp16"), ""
    path = folder / f"{name}-{target}-{precision}"
    build = None
    if target == "tensorrt-rtx":
        build = BuildSettings(compute_capabilities=(device.gpus[0].compute_capability,))
    try:
        recipe = export_recipe(name, target=target, precision=precision, quality_samples=0, build=build)
        bundle = Bundle.open(path) if path.exists() else export_model(recipe, path).bundle
        return open_session(bundle), ""
    except AigcError as err:
        return None, err.message


def versions() -> dict[str, str]:
    from importlib import metadata

    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {name: installed[name] for name in TOOLS if name in installed}


def markdown(rows: Sequence[Row], device: Device, tools: Mapping[str, str]) -> str:
    """The table, with what it was measured on above it."""
    gpu = device.gpus[0]
    lines = [
        f"{gpu.name} (compute capability {gpu.compute_capability}), driver for CUDA {device.driver_cuda}, "
        f"{device.platform}, Python {device.python}, {', '.join(f'{k} {v}' for k, v in tools.items())}.",
        "One step at batch 1, medians; ratio: how many times as fast as PyTorch eager in fp32.",
        "",
        "| model | engine | precision | PyTorch fp32, ms | engine, ms | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        if r.speedup is None:
            shown = f"| - | - | {' '.join(r.reason.split()).replace('|', '/')} |"
        else:
            shown = f"| {r.torch_ms:.3f} | {r.engine_ms:.3f} | {r.speedup:.2f}x |"
        lines.append(f"| {r.model} | {r.engine} | {r.precision} {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
