"""Run one runtime of `engines/` for another process: a line of JSON comes in, a line of JSON goes out.

    python worker.py ENGINE.py

What a runtime prints goes to standard error. This file and the engine's own are all that the process needs, so that it
runs in any Python that has the runtime.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

MIB = 2**20


class Commands:
    """What a process does for the one that started it.

    Args:
        module: of `engines`.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.engine: Any = None

    def version(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Tell the runtime's version."""
        return {"version": self.module.version()}

    def build(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make the runtime's model of a source."""
        self.module.build(asked["source"], asked["form"], asked["into"])
        return {}

    def open(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Open a model."""
        self.engine = self.module.Engine(asked["folder"], asked["form"], asked["threads"])
        return {}

    def generate(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Read prompts and generate behind them: the seconds of the prompts and of every token after the first.

        The tokens are those of the first prompt.
        """
        engine, count = self._opened(), asked["tokens"]
        started = time.perf_counter()
        tokens = [engine.prompt(asked["rows"], count)[0]]
        first, seconds = time.perf_counter() - started, []
        for _ in range(count - 1):
            started = time.perf_counter()
            tokens.append(engine.step()[0])
            seconds.append(time.perf_counter() - started)
        return {"prompt": first, "steps": seconds, "tokens": tokens}

    def positions(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Write the logits of every place of a text, [S, V] float32, to a file."""
        import numpy as np

        np.save(asked["file"], np.ascontiguousarray(self._opened().positions(asked["ids"]), dtype=np.float32))
        return {}

    def peak(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Tell the most memory that the process ever had resident, in bytes; null where the system does not say."""
        return {"peak": peak_memory()}

    def _opened(self) -> Any:
        if self.engine is None:
            raise RuntimeError("no model is open")
        return self.engine


def peak_memory() -> int | None:
    """The largest resident set of this process, by Linux; not getrusage's, which counts the parent's before exec."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else None


def load(path: str) -> Any:
    """Load a file of `engines/` by itself: its package may not be importable here."""
    spec = importlib.util.spec_from_file_location("peer_engine", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not an answer
    commands: Commands | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if commands is None:
                commands = Commands(load(sys.argv[1]))
            answer = getattr(commands, asked["do"])(asked)
        except (ImportError, OSError) as err:  # OSError: a library of its own is not there
            answer = {"missing" if isinstance(err, ImportError) else "error": f"{type(err).__name__}: {err}"}
        except Exception as err:  # noqa: BLE001 - whatever a runtime raises is told, and the next command tried
            answer = {"error": f"{type(err).__name__}: {err}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
