"""Running the two command lines as a shell does: streams that are broken in every way, and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

FULL = Path("/dev/full")


def command(program: str, *arguments: str) -> list[str]:
    """`aigc-run` or `aigc-export`, of the sources under test."""
    module = {"aigc-run": "aigc_runtime", "aigc-export": "aigc_export"}[program]
    return [sys.executable, "-m", module, *arguments]


def clean(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what changes text streams, and with `more`."""
    names = ("PYTHONIOENCODING", "PYTHONUTF8", "PYTHONCOERCECLOCALE", "PYTHONUNBUFFERED", "AIGC_DEBUG")
    return {**{k: v for k, v in os.environ.items() if k not in names}, **(more or {})}


def run_into(
    sink: str, arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, stderr: str = ""
) -> tuple[int, str]:
    """Run with standard output `gone` (a pipe whose reader left), `full`, or `closed`; exit code and standard error.

    `stderr` may be `full` or `closed`.
    """
    out = {"full": " >/dev/full", "closed": " >&-"}.get(sink, "")
    err = {"full": " 2>/dev/full", "closed": " 2>&-"}.get(stderr, "")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            ["bash", "-c", f'"$@"{out}{err}', "bash", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=writer if sink == "gone" else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=clean(environment),
            check=False,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr.decode()


def interrupt(
    arguments: Sequence[str],
    *,
    after: str = "",
    delay: float = 0.0,
    number: signal.Signals = signal.SIGINT,
    times: int = 1,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Send a signal once a line of the output begins with `after`, and a while later; exit code, output, errors.

    `times` of them come, two milliseconds apart.
    """
    with subprocess.Popen(
        list(arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean({"PYTHONUNBUFFERED": "1", **(environment or {})}),
        # A shell that runs the tests in the background has Ctrl-C ignored, nohup SIGHUP; children inherit that.
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
    ) as process:
        assert process.stdout is not None
        if after:
            assert any(line.startswith(after) for line in process.stdout), process.stderr
        time.sleep(delay)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.002)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err
