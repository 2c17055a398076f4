"""What transformers makes of a folder's tokenizer, where it is installed: a second opinion, and more conversions."""

from __future__ import annotations

import contextlib
import datetime
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = [
    "MIN_TRANSFORMERS",
    "clock_of_transformers",
    "is_new_enough",
    "open_data_with_transformers",
    "open_with_transformers",
    "quiet",
    "tokenizers_version",
    "transformers_tokenizer",
    "transformers_version",
    "why_not_compared",
]

_LOG = logging.getLogger(__name__)


MIN_TRANSFORMERS = 5
"""The version whose reading of tokenizers is followed here."""


def is_new_enough(version: str) -> bool:
    """Whether a version of transformers reads tokenizers as is done here.

    >>> is_new_enough("5.23.0"), is_new_enough("4.57.1")
    (True, False)
    """
    major = version.split(".", maxsplit=1)[0]
    return major.isdigit() and int(major) >= MIN_TRANSFORMERS


def why_not_compared(version: str | None) -> str | None:
    """Why a version of transformers is no second opinion on token ids; None where it is one.

    >>> why_not_compared(None)
    'token ids are not compared with transformers, which is not installed'
    >>> why_not_compared("5.23.0") is None
    True
    """
    if version is None:
        return "token ids are not compared with transformers, which is not installed"
    if not is_new_enough(version):
        return (
            f"token ids are not compared with transformers {version}, which reads some tokenizers otherwise than "
            f"version {MIN_TRANSFORMERS} does: pip install --upgrade transformers"
        )
    return None


def transformers_version() -> str | None:
    """The version that is installed; None for none."""
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None


def tokenizers_version() -> str:
    """The version of the library that runs tokenizers of files."""
    return metadata.version("tokenizers")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def open_with_transformers(folder: Path | None, *, kind: str = "AutoTokenizer") -> Any:
    """The tokenizer of a local folder, no code of its own run; None where the library has none for it.

    Args:
        folder: the folder.
        kind: class of the library that opens it.
    """
    if folder is None or transformers_version() is None:
        return None
    with quiet():
        try:
            import transformers

            opened: Any = getattr(transformers, kind)
            return opened.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        # Whatever goes wrong within another library's reading of a damaged or foreign folder.
        except Exception as err:  # noqa: BLE001
            _LOG.info("transformers does not read the tokenizer of %s: %s", folder, err)
            return None


def open_data_with_transformers(data: bytes, *, clean_up_spaces: bool, special_tokens: Mapping[str, str]) -> Any:
    """A tokenizer over the content of a tokenizer.json, as transformers runs it.

    Args:
        data: the content.
        clean_up_spaces: as in `TokenizerInfo`.
        special_tokens: by name, such as `bos_token`.
    """
    with quiet():
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        opened: Any = PreTrainedTokenizerFast
        return opened(
            tokenizer_object=Tokenizer.from_str(data.decode("utf-8")),
            clean_up_tokenization_spaces=clean_up_spaces,
            **special_tokens,
        )


@contextlib.contextmanager
def clock_of_transformers(now: datetime.datetime) -> Iterator[None]:
    """Stop the clock that chat templates read while the block lasts: a prompt with today's date could not be proven.

    The library has no argument for it.
    """
    from transformers.utils import chat_template_utils

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return now

    utils: Any = chat_template_utils
    clock = getattr(utils, "datetime", None)
    utils.datetime = Stopped
    try:
        yield
    finally:
        utils.datetime = clock


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
