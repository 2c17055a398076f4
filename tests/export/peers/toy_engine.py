"""A runtime for tests: knows no model, and does what the word in its file says."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 256


def version() -> str:
    return "1.2.3"


def build(source: str, form: str, into: str) -> None:
    if form == "unbuilt":
        raise ValueError("no such weights")
    (Path(into) / "model.bin").write_bytes(b"x" * 1000)
    (Path(into) / "built").write_text(source)


class Engine:
    def __init__(self, folder: str, form: str, threads: int) -> None:
        print("a library prints to standard output")
        if form == "missing":
            raise ModuleNotFoundError("No module named 'toy'")
        self.form, self.threads, self.read, self.rows = form, threads, 0, 1

    def prompt(self, rows: list[list[int]], room: int) -> list[int]:
        ids = rows[0]
        if self.form == "dies" and len(ids) > 16:
            print("out of toys", file=__import__("sys").stderr)
            os._exit(3)
        if self.form == "raises" and len(ids) > 16:
            raise RuntimeError("the graph is broken")
        if self.form == "hangs":
            time.sleep(60)
        self.read, self.rows = len(ids), len(rows)
        return [len(ids) % VOCABULARY] * self.rows

    def step(self) -> list[int]:
        self.read += 1
        time.sleep(0.002)
        return [self.read % VOCABULARY] * self.rows

    def positions(self, ids: list[int]) -> Any:
        if self.form == "blind":
            raise RuntimeError("it keeps the last place alone")
        width = VOCABULARY + 1 if self.form == "other" else VOCABULARY
        return np.zeros((len(ids), width), dtype=np.float32)
