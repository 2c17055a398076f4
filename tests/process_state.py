"""What a library must leave alone in the process of its caller, as one value that can be compared."""

from __future__ import annotations

import decimal
import gc
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def process_state() -> dict[str, Any]:
    """Global state by name; of torch and matplotlib what is loaded already."""
    tiny, half = 1e-310, np.array([1e-40], np.float32)
    root, umask = logging.getLogger(), os.umask(0)
    os.umask(umask)
    state: dict[str, Any] = {
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in sorted(signal.valid_signals())},
        "root logger": (root.level, list(root.handlers), list(root.filters), root.disabled),
        "logging": (root.manager.disable, logging.raiseExceptions, logging.lastResort),
        "warnings": list(warnings.filters),
        "random": random.getstate(),
        "numpy random": str(np.random.get_state()),  # noqa: NPY002 - the global one, which callers seed
        "numpy errors": np.geterr(),
        "numpy printing": np.get_printoptions(),
        "decimal": str(decimal.getcontext()),
        "denormals": (tiny * 0.5 > 0, bool((half * np.float32(0.5))[0] > 0)),
        "locale": [locale.setlocale(category) for category in (locale.LC_CTYPE, locale.LC_NUMERIC, locale.LC_TIME)],
        "folder": str(Path.cwd()),
        "umask": umask,
        "import path": list(sys.path),
        "hooks": (sys.excepthook, sys.displayhook, threading.excepthook, sys.unraisablehook),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "limits": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "threads": [thread.name for thread in threading.enumerate()],
        # PyTorch keeps its compiler's cache there, one folder for each user.
        "temporary files": sorted(
            path.name for path in Path(tempfile.gettempdir()).iterdir() if not path.name.startswith("torchinductor_")
        ),
    }
    if Path("/proc/self/fd").is_dir():
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        state["open files"] = sorted(str(link.readlink()) for link in links if link.exists())
    if (torch := sys.modules.get("torch")) is not None:
        state["torch"] = (torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype())
        state["torch modes"] = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        state["torch random"] = torch.get_rng_state().tolist()
        state["torch choices"] = (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())
    if (matplotlib := sys.modules.get("matplotlib")) is not None:
        state["matplotlib"] = (dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False))
    return state


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, before and after."""
    return {name: (value, after[name]) for name, value in before.items() if after[name] != value}
