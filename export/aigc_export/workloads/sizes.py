"""Choose sizes that a session takes: an engine may be built for few of those that its model knows."""

from __future__ import annotations

from aigc_runtime.core.session import Session

__all__ = ["fitting", "fitting_batches", "image_count"]

BATCH = "batch"


def fitting(session: Session, dim: str, size: int) -> int:
    """Choose the size nearest to `size` that the session takes."""
    found = session.interface.dim(dim)
    return size if found is None else found.nearest(size)


def fitting_batches(session: Session, *rows: int) -> tuple[int, ...]:
    """List numbers of rows that the session takes, each once."""
    return tuple(dict.fromkeys(fitting(session, BATCH, n) for n in rows))


def image_count(session: Session, count: int) -> int:
    """Choose how many images to request: pipelines cut them into runs, of which the last may be of one row."""
    return count if fitting(session, BATCH, 1) == 1 else fitting(session, BATCH, count)
