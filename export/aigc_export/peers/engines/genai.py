"""onnxruntime-genai, with the models of its own builder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

__all__ = ["Engine", "build", "version"]

PRECISIONS = {"int4": "int4", "k_quant_mixed": "int4", "int8": "int8", "fp32": "fp32"}
EXTRA = {"k_quant_mixed": ["algo_config=k_quant_mixed"]}
"""Options of the builder; `int4_algo_config` is read by no version from 0.18 on."""


def version() -> str:
    """The package's."""
    return str(og.__version__)


def build(source: str, form: str, into: str) -> None:
    """Build with the package's own builder, at its own defaults."""
    words = ["-i", source, "-o", into, "-p", PRECISIONS[form], "-e", "cpu"]
    if extra := EXTRA.get(form):
        words += ["--extra_options", *extra]
    with tempfile.TemporaryDirectory() as cache:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", *words, "-c", cache]
        try:
            subprocess.check_output(builder, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace")  # noqa: S603
        except subprocess.CalledProcessError as err:
            raise RuntimeError(f"its builder failed: {err.output.strip()[-300:]}") from err


class Engine:
    """See `aigc_export.peers.engines`.

    Args:
        folder: that `build` made.
        form: not read: it is in the model.
        threads: of the session.
    """

    def __init__(self, folder: str, form: str, threads: int) -> None:
        config = og.Config(folder)
        options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}
        config.overlay(json.dumps(options))
        written = json.loads((Path(folder) / "genai_config.json").read_text(encoding="utf-8"))
        self._longest = int(written["model"]["context_length"])
        self.model = og.Model(config)
        self._generator: Any = None

    def _start(self, rows: list[list[int]], room: int) -> None:
        params, longest = og.GeneratorParams(self.model), min(self._longest, len(rows[0]) + room)
        params.set_search_options(max_length=longest, do_sample=False, batch_size=len(rows))
        self._generator = og.Generator(self.model, params)
        self._generator.append_tokens(np.array(rows, dtype=np.int32))

    def _next(self) -> list[int]:
        self._generator.generate_next_token()
        return [int(token) for token in self._generator.get_next_tokens()]

    def prompt(self, rows: list[list[int]], room: int) -> list[int]:
        """Read prompts; the likeliest next token of each."""
        self._start(rows, room)
        return self._next()

    def step(self) -> list[int]:
        """The next tokens."""
        return self._next()

    def positions(self, ids: list[int]) -> Any:
        """Logits of every place, [S, V] float32: the generator gives those of the last one, so it reads one by one."""
        self._start([ids[:1]], len(ids))
        rows = [self._generator.get_logits()[0, -1].copy()]
        for token in ids[1:]:
            self._generator.append_tokens(np.array([[token]], dtype=np.int32))
            rows.append(self._generator.get_logits()[0, -1].copy())
        return np.stack(rows)
