"""Where the time of an export goes: a line for each stage of a model's export, with its seconds and peak memory.

    python benchmarks/stages.py SmolLM2-135M-Instruct
    python benchmarks/stages.py SmolLM2-135M-Instruct --precision int4 --weight-method rtn
    python benchmarks/stages.py SmolLM2-135M-Instruct --precision int8 --calibration-samples 128 --profile int8.prof
    python benchmarks/stages.py SmolLM2-135M-Instruct --precision int8 --compute-capability 8.9 --phases

With a compute capability the target is TensorRT-RTX. `--phases` prints a line also for each phase of calibration and of
the choices of quantization, from its first report to that of the next. Seconds are those of the clock, and of the
processors: other work on the machine lengthens the first. Peak memory is the largest resident set of this process
(Linux). The limits of parity are loose: what is timed is the whole line.
"""

from __future__ import annotations

import argparse
import cProfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aigc_export.cli.process import prepare_process

STARTED = time.perf_counter()


class Stages:
    """Prints a line for every stage, and keeps them."""

    def __init__(self) -> None:
        from scale import peak_bytes

        self.peak_bytes = peak_bytes
        self.lines: list[tuple[str, float, float, int]] = []
        self.last = time.perf_counter(), time.process_time()
        peak_bytes(reset=True)

    def __call__(self, name: str, what: str) -> None:
        """End a stage."""
        now = time.perf_counter(), time.process_time()
        seconds, processors = (after - before for before, after in zip(self.last, now, strict=True))
        self.lines.append((name, seconds, processors, self.peak_bytes(reset=True)))
        self.last = now
        print(_line(*self.lines[-1]), what[:90], flush=True)


class Phases:
    """Prints a line for every phase that progress is told of, when the next one begins."""

    def __init__(self) -> None:
        self.last, self.times, self.began = "", 0, time.perf_counter()

    def __call__(self, what: str, _done: int, _total: int) -> None:
        """Count a report."""
        if what != self.last:
            self.end()
            self.last = what
        self.times += 1

    def end(self) -> None:
        """Print the phase that was told of last."""
        now = time.perf_counter()
        if self.last:
            print(f"  {self.last}: {now - self.began:.1f} s, {self.times} reports", flush=True)
        self.last, self.times, self.began = "", 0, now


def _line(name: str, seconds: float, processors: float, peak: int) -> str:
    return f"{name:20} {seconds:7.1f} s {processors:7.1f} s of processors {peak / 1e9:6.2f} GB "


def main() -> None:
    """Export one model among temporary files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder, a shipped name, or FILE.py:FUNCTION")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--weight-method")
    parser.add_argument("--calibration-samples", type=int)
    parser.add_argument("--quality-samples", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--compute-capability", help="of TensorRT-RTX; default: ONNX Runtime for CPUs")
    parser.add_argument("--phases", action="store_true", help="also those of calibration and of choices")
    parser.add_argument("--profile", type=Path, help="where to write what cProfile saw; it slows Python down")
    given = vars(parser.parse_args())
    model, profile = given.pop("model"), given.pop("profile")
    capability, phases = given.pop("compute_capability"), Phases() if given.pop("phases") else None
    prepare_process()
    from aigc_export.line.exporter import export_model
    from aigc_export.recipes.recipe import export_recipe
    from aigc_export.targets.tensorrt.settings import BuildSettings

    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if capability is not None:
        options |= {"target": "tensorrt-rtx", "build": BuildSettings(compute_capabilities=(capability,))}
    if given["precision"] != "fp32":
        options["tolerance"] = {"max_quality_drop": 10.0}
    print(f"imports {time.perf_counter() - STARTED:.1f} s")
    stages, seen = Stages(), cProfile.Profile()
    recipe = export_recipe(model, **options)
    with TemporaryDirectory(prefix="aigc-stages-") as folder:
        if profile is not None:
            seen.enable()
        result = export_model(recipe, Path(folder) / "bundle", stage=stages, progress=phases)
        seen.disable()
        if phases is not None:
            phases.end()
        size = sum(file.stat().st_size for file in result.bundle.path.iterdir())
    if profile is not None:
        seen.dump_stats(profile)
    seconds, processors = sum(line[1] for line in stages.lines), sum(line[2] for line in stages.lines)
    print(_line("all", seconds, processors, max(line[3] for line in stages.lines)), f"bundle {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
