"""What transformers makes of a folder's tokenizer, where it is installed: a second opinion, and more conversions."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["open_with_transformers", "transformers_tokenizer", "transformers_version"]

_LOG = logging.getLogger(__name__)


def transformers_version() -> str | None:
    """The version that is installed; None for none."""
    from importlib import metadata

    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's own messages off the terminal."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def open_with_transformers(folder: Path | None) -> Any:
    """AutoTokenizer's tokenizer of a local folder, no code of its own run; None where the library has none for it."""
    if folder is None or transformers_version() is None:
        return None
    with _quiet():
        try:
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        # Whatever goes wrong within another library's reading of a damaged or foreign folder.
        except Exception as err:  # noqa: BLE001
            _LOG.info("transformers does not read the tokenizer of %s: %s", folder, err)
            return None


def transformers_tokenizer(folder: Path | None, name: str) -> bytes | None:
    """The tokenizer.json of what transformers builds from a folder; None where it builds none.

    Args:
        folder: the folder.
        name: class of the tokenizer, for the log.
    """
    tokenizer = open_with_transformers(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    _LOG.info("the tokenizer of class %s is taken as transformers %s builds it", name, transformers_version())
    return str(backend.to_str()).encode("utf-8")
