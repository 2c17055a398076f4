"""Attention of prompts by whole products of matrices, in place of ONNX Runtime's tiles of them.

`GroupQueryAttention` on a CPU reads a prompt tile by tile ("flash attention"), which holds fewer scores in memory and
takes a little longer: of SmolLM2-135M prompts of 128 to 1,024 tokens took 1.03 to 1.04 times as long (onnxruntime 1.32,
two cores of an Intel Xeon with AVX512-VNNI), 2,048 at once 0.95 times, a token the same. Where denormal numbers are not
flushed it is 1.06 to 1.32 times. A pipeline bounds what scores take: it reads a prompt in pieces. The operator asks the
environment when a session is made, and nothing else tells it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

__all__ = ["SWITCH", "whole_attention"]

SWITCH = "ORT_GQA_DISABLE_FLASH_ATTENTION"
"""A variable of the environment: 1 for whole products. What the user has set stays."""

_lock = threading.Lock()
_open = [0]
"""How many sessions are being made under a switch that was set here."""


@contextlib.contextmanager
def whole_attention() -> Iterator[None]:
    """Set the switch while sessions are made, of which several may be made at once."""
    with _lock:
        ours = _open[0] > 0 or SWITCH not in os.environ
        if ours:
            os.environ[SWITCH] = "1"
            _open[0] += 1
    try:
        yield
    finally:
        if ours:
            with _lock:
                _open[0] -= 1
                if not _open[0]:
                    os.environ.pop(SWITCH, None)
