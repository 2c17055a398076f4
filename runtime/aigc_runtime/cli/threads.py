"""The option `--threads` of `aigc-run`: a number, or `auto`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from aigc_runtime.bundle.bundle import Bundle

__all__ = ["THREADS_HELP", "chosen_threads", "threads_argument"]

THREADS_HELP = "threads of the engine, or auto: the fewest that are as fast as any (default: every processor)"


def threads_argument(text: str) -> int | Literal["auto"]:
    """Read a number of threads, or `auto`.

    >>> threads_argument("4"), threads_argument("auto")
    (4, 'auto')
    """
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from err


def chosen_threads(bundle: Bundle, asked: int | Literal["auto"] | None, *, low_memory: bool = False) -> int | None:
    """The number of threads that was asked for; of `auto` it is measured, and told on standard error.

    Raises:
        AigcError: an engine does not load or run.
    """
    if asked != "auto":
        return asked
    from aigc_runtime.proof.fastest_threads import fewest_fast, time_threads

    seconds = time_threads(bundle, low_memory=low_memory)
    found = fewest_fast(seconds)
    if found is None:
        sys.stderr.write("note: --threads auto means nothing to an engine that runs on no processor\n")
        return None
    each = ", ".join(f"{count}: {1e3 * taken:.2f} ms" for count, taken in seconds.items())
    sys.stderr.write(f"threads {found}, by the time of a step ({each})\n")
    return found
