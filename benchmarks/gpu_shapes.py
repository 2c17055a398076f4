"""What a new size costs on a GPU: `ort-cuda`, the shipped UNet, by how cuDNN chooses its convolutions.

    .venv/bin/aigc-export export unet --target ort-cuda --quality-samples 0 -o out/unet-cuda
    .venv/bin/python benchmarks/gpu_shapes.py out/unet-cuda

One step with a batch that stays (2), and with one that is another at every step (1, 2, 3); medians. The first line is
what `ort-cuda` does: EXHAUSTIVE is ONNX Runtime's default.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace

import numpy as np

from aigc_runtime.backends.ort.providers import PROVIDERS
from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.core.session import Session
from aigc_runtime.core.tensors import Array
from aigc_runtime.opening import open_session

WAYS = ("EXHAUSTIVE", "HEURISTIC", "DEFAULT")


def feeds(rows: int) -> dict[str, Array]:
    rng = np.random.default_rng(rows)
    return {
        "sample": rng.standard_normal((rows, 1, 16, 16), dtype=np.float32),
        "timestep": np.full(rows, 500, np.float32),
        "class_labels": np.arange(rows) % 10,
    }


def step_ms(session: Session, rows: int) -> float:
    started = time.perf_counter()
    session.run(feeds(rows))
    return (time.perf_counter() - started) * 1e3


def main(path: str) -> None:
    bundle = Bundle.open(path)
    for way in WAYS:
        cuda = PROVIDERS["cuda"]
        PROVIDERS["cuda"] = replace(cuda, options={**cuda.options, "cudnn_conv_algo_search": way})
        started = time.perf_counter()
        session = open_session(bundle)
        opened = time.perf_counter() - started
        first = step_ms(session, 2)
        same = [step_ms(session, 2) for _ in range(50)]
        changed = [step_ms(session, 1 + i % 3) for i in range(9)]
        session.close()
        print(
            f"{way}: open {opened:.2f} s, first {first:.0f} ms, "
            f"same {statistics.median(same):.2f} ms, changed {statistics.median(changed):.0f} ms"
        )


if __name__ == "__main__":
    main(sys.argv[1])
