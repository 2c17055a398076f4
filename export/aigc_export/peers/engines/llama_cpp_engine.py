"""llama.cpp by llama-cpp-python, on a GGUF file as it is or in other codes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

__all__ = ["Engine", "build", "version"]

FILE = "model.gguf"
CONTEXT_MULTIPLE = 256
CODES = {
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}


def version() -> str:
    """Of llama-cpp-python."""
    return str(llama_cpp.__version__)


def build(source: str, form: str, into: str) -> None:
    """Copy a GGUF file, or store it in other codes."""
    file = Path(into) / FILE
    if form not in CODES:
        shutil.copyfile(source, file)
        return
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = CODES[form], True
    if llama_cpp.llama_model_quantize(source.encode(), str(file).encode(), params):
        raise RuntimeError(f"llama.cpp cannot store {source} as {form}")


class Engine:
    """See `aigc_export.peers.engines`.

    Args:
        folder: that `build` made.
        form: not read: it is in the file.
        threads: for prompts and for tokens.
    """

    def __init__(self, folder: str, form: str, threads: int) -> None:
        self._file, self._threads = str(Path(folder) / FILE), threads
        self.model: Any = None
        self._token = 0

    def _open(self, *, n_ctx: int, logits_all: bool) -> Any:
        threads = {"n_threads": self._threads, "n_threads_batch": self._threads}
        # It rounds a context up, and says the rounded one, but makes room for as many ids as were asked for.
        n_ctx = -(-n_ctx // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE
        return llama_cpp.Llama(self._file, n_ctx=n_ctx, logits_all=logits_all, verbose=False, **threads)

    def _next(self) -> list[int]:
        row = llama_cpp.llama_get_logits_ith(self.model._ctx.ctx, -1)
        self._token = int(np.ctypeslib.as_array(row, shape=(self.model.n_vocab(),)).argmax())
        return [self._token]

    def prompt(self, rows: list[list[int]], room: int) -> list[int]:
        """Read the only prompt; the likeliest next token."""
        if len(rows) > 1:
            raise ValueError("llama-cpp-python evaluates one text at a time")
        (ids,) = rows
        if self.model is None or self.model.n_ctx() < len(ids) + room:
            self.model = self._open(n_ctx=len(ids) + room, logits_all=False)
        self.model.reset()
        self.model.eval(ids)
        return self._next()

    def step(self) -> list[int]:
        """The next token."""
        self.model.eval([self._token])
        return self._next()

    def positions(self, ids: list[int]) -> Any:
        """Logits of every place: [S, V] float32."""
        model = self._open(n_ctx=len(ids), logits_all=True)
        model.eval(ids)
        return np.array(model.scores[: len(ids)])
