"""A process that runs one runtime for this one, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from aigc_export.peers import worker
from aigc_runtime.errors import EngineError, EngineMissingError
from aigc_runtime.io.printable import printable

__all__ = ["WorkerProcess"]

MAX_SECONDS = 1800.0
"""A model of a billion parameters is built in minutes."""
TOLD = 400
"""Characters of what a process printed last."""


class WorkerProcess:
    """See `worker.py`, whose commands it asks for.

    Args:
        engine: file of `engines`.
        python: runs it; None: the Python that runs this.
        seconds: that a command may take.
    """

    def __init__(self, engine: Path, *, python: str | None = None, seconds: float = MAX_SECONDS) -> None:
        self._seconds = seconds
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close
        words = [python or sys.executable, str(Path(worker.__file__)), str(engine)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a Python that the user named, and a file of ours
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
            )
        except OSError as err:
            self._errors.close()
            raise EngineMissingError(
                f"{words[0]} cannot be started: {err.strerror}", hint="name a Python with --peer-python"
            ) from err
        self._lines: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Run a command.

        Args:
            do: name of a method of `worker.Commands`.
            **more: its arguments.

        Raises:
            EngineMissingError: a package is not installed there.
            EngineError: the runtime refused, the process ended, or it took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=self._seconds)
        except queue.Empty:
            self.close()
            raise EngineError(f"no answer to {do!r} in {self._seconds:.0f} s", hint="the process was ended") from None
        except OSError:
            line = ""
        if not line:
            raise EngineError(f"the process ended during {do!r}{self._last_words()}", hint="run it by hand to see why")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise EngineMissingError(str(printable(answer["missing"])), hint="install it, or name a Python that has it")
        if "error" in answer:
            raise EngineError(str(printable(answer["error"]))[:TOLD], hint=f"while it was asked for {do!r}")
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        said = printable(self._errors.read()[-TOLD:].strip())
        return f": {said}" if said else ""

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):  # what was not yet written is not wanted
                    stream.close()

    def __enter__(self) -> WorkerProcess:
        """The process, ended at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()
