"""Train all small generators, or some: `python benchmarks/trained NAME ...`; what is in the cache stays."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from trained import RECIPES
from trained.recipe import trained_folder


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or RECIPES:
        started = time.perf_counter()
        folder = trained_folder(RECIPES[name], say=print)
        print(f"{name}: {time.perf_counter() - started:.0f} s, {folder}", flush=True)


if __name__ == "__main__":
    main()
