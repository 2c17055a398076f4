"""Text that grows token by token and ends before the first of some strings."""

from __future__ import annotations

from collections.abc import Sequence

from aigc_runtime.errors import InputError
from aigc_runtime.generation.tokenizers import StreamDecoder
from aigc_runtime.io.printable import shown

__all__ = ["StopWatch", "check_stop"]


def check_stop(stop: Sequence[str]) -> None:
    """Refuse what is no list of stop strings.

    Raises:
        InputError: no list, or an empty string in it.
    """
    if not isinstance(stop, (list, tuple)) or not all(isinstance(s, str) and s for s in stop):
        raise InputError(f"stop is {shown(stop)}", hint="must be a list of strings, none of them empty")


class StopWatch:
    """Text that grows piece by piece, cut before the first stop string.

    Args:
        decoder: of the tokens; it never gives half a character.
        stop: the strings, wherever the borders of the tokens are.

    Attributes:
        emitted: all text that could be shown so far.
        stopped: whether a stop string was met.
    """

    def __init__(self, decoder: StreamDecoder, stop: Sequence[str]) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._held = ""
        self.emitted = ""
        self.stopped = False

    @property
    def looks_for_any(self) -> bool:
        """Whether there are stop strings."""
        return bool(self._stop)

    def feed(self, token: int) -> str:
        """The text that can be shown after this token."""
        if self.stopped:
            return ""
        self._held += self._decoder.feed(token)
        return self._release()

    def finish(self) -> str:
        """The rest, once no more tokens come."""
        if self.stopped:
            return ""
        self._held += self._decoder.finish()
        piece = self._release()
        rest, self._held = self._held, ""
        self.emitted += rest
        return piece + rest

    def _release(self) -> str:
        cuts = [at for at in (self._held.find(s) for s in self._stop) if at >= 0]
        if cuts:
            self.stopped = True
            piece = self._held[: min(cuts)]
            self._held = ""
        else:
            keep = self._undecided()
            piece, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.emitted += piece
        return piece

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-n:]) for s in self._stop):
                return n
        return 0
