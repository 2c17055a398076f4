"""How much memory, and how long, it takes to enlarge photos of several sizes on a device.

    python benchmarks/large_photos.py [--sizes 1000x750,2000x1500,4000x3000] [--precision fp32] [--threads 1]
    python benchmarks/large_photos.py --bundle out/upscaler --threads 2

The network is SRVGGNetCompact as Real-ESRGAN has it for videos (16 convolutions of 64 features, x4) with random
weights: what they are changes neither. A smaller one (`--features 4 --convolutions 1`) shows in little time what is
held beside the engine, which is the same. Each photo is scikit-learn's `china.jpg`, continued by its mirror images and
written as a JPEG. `aigc-run generate` runs in a process of its own, and its largest resident set is the one that the
system counted.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SCALE = 4
MEASURED = """
import sys
from pathlib import Path
from aigc_runtime.cli.main import run
code = run(sys.argv[1:])
# The system's own count of the largest resident set: that of `getrusage` starts with what the parent had.
print(*(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
raise SystemExit(code)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--sizes", default="1000x750,2000x1500,4000x3000", help="WIDTHxHEIGHT, with commas")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--bundle", type=Path, help="of an upscaler by 4, in place of one with random weights")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--convolutions", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    sizes = [tuple(map(int, size.split("x"))) for size in asked.sizes.split(",")]
    print("| photo | result | peak, MiB | beyond the smallest run, MiB | seconds |")
    print("| --- | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        bundle = asked.bundle or export(Path(folder), asked)
        least, _ = measured(Path(folder), bundle, 16, 16, asked.threads)
        print(f"| 16 x 16 | 64 x 64 | {least:,.0f} | 0 | |", flush=True)
        for width, height in sizes:
            peak, seconds = measured(Path(folder), bundle, width, height, asked.threads)
            large = f"{SCALE * width:,} x {SCALE * height:,}"
            print(
                f"| {width:,} x {height:,} | {large} | {peak:,.0f} | {peak - least:,.0f} | {seconds:.0f} |", flush=True
            )
    return 0


def export(folder: Path, asked: argparse.Namespace) -> Path:
    """Export a network with random weights."""
    import torch
    from safetensors.torch import save_file

    import aigc_export
    from aigc_models.families.srvgg import SRVGGNet, SRVGGNetConfig

    torch.manual_seed(0)
    config = SRVGGNetConfig(num_feat=asked.features, num_conv=asked.convolutions, upscale=SCALE)
    save_file(SRVGGNet(config).state_dict(), folder / "compact.safetensors")
    options: dict[str, Any] = {"precision": asked.precision, "quality_samples": 0, "threads": 1}
    return aigc_export.export(str(folder / "compact.safetensors"), output=folder / "bundle", **options).bundle.path


def measured(folder: Path, bundle: Path, width: int, height: int, threads: int) -> tuple[float, float]:
    """Peak of the resident set in MiB, and seconds."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg")
    rows, columns = (reflected(n, m) for n, m in zip((height, width), photo.shape[:2], strict=True))
    source, target = folder / "photo.jpg", folder / "large.png"
    Image.fromarray(photo[rows[:, None], columns]).save(source, quality=90)
    command = ["generate", str(bundle), "--image", str(source), "-o", str(target), "--threads", str(threads)]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    with target.open("rb") as file:
        assert struct.unpack(">II", file.read(24)[16:]) == (SCALE * width, SCALE * height)
    target.unlink()
    return int(done.stdout.split()[-2]) / 1024, seconds


def reflected(length: int, period: int) -> np.ndarray:
    turn = np.arange(length) % (2 * period)
    return np.minimum(turn, 2 * period - 1 - turn)


if __name__ == "__main__":
    raise SystemExit(main())
