"""What a bundle was exported from, as its maker named it: enough to find it again and to export it again.

A manifest may come from a stranger: names of options are known ones, values are quoted for the shell, and a path is
only ever read as a checkpoint or a text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType

from aigc_runtime.errors import ConfigError

__all__ = ["OPTIONS", "Origin", "can_be_recorded"]

OPTIONS = MappingProxyType(
    {
        "--cache": 1,
        "--context-length": 1,
        "--lora": 1,
        "--lora-partial": 0,
        "--embedding": 1,
        "--noise": 1,
        "--tile": 1,
        "--separate-prefill": 0,
        "--no-separate-prefill": 0,
        "--dynamic-size": 0,
        "--fixed-size": 0,
        "--calibration-samples": 1,
        "--keep-float": 1,
        "--float-share": 1,
        "--ranges": 1,
        "--weight-ranges": 1,
        "--weight-method": 1,
        "--block": 1,
        "--weight-zero-points": 0,
        "--no-weight-zero-points": 0,
        "--rotate": 0,
        "--no-rotate": 0,
        "--split-skips": 0,
        "--equalize": 1,
        "--precision": 1,
        "--quality-samples": 1,
        "--tolerance": 1,
        "--budget": 1,
        "--allow-slower": 0,
        "--seed": 1,
        "--profile": 1,
        "--workspace-mib": 1,
        "--optimization-level": 1,
        "--timing-cache": 1,
        "--version-compatible": 0,
        "--hardware-compatibility": 1,
        "--weight-streaming": 0,
        "--tf32": 0,
    }
)
"""Option of `aigc-export export` that an origin may hold -> values it takes each time."""
_OF_ONE_PRECISION = (
    "--precision",
    "--tolerance",
    "--budget",
    "--allow-slower",
    "--float-share",
    "--ranges",
    "--weight-ranges",
    "--weight-method",
    "--block",
    "--weight-zero-points",
    "--no-weight-zero-points",
    "--rotate",
    "--no-rotate",
    "--split-skips",
    "--equalize",
)
_DIGEST = re.compile(r"[0-9a-f]{64}")
MAX_TEXT = 4096


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a bundle was exported from. Paths are those that were given, relative or not.

    Attributes:
        shipped: whether the weights came with the package.
        checkpoint: path of the user's own; null for shipped ones, and where it cannot be written down.
        model_sha256: of the numbers of all tensors and of what config.json says: of the model itself.
        config_sha256: of what config.json says.
        calibration_data: path of the user's own samples, or null.
        calibration: path of the calibration file, or null.
        eval_data: path of the text that the user named to judge on, or null.
        eval_sha256: of the text that it was judged on; empty for images.
        options: further options of the export, as they are typed.
        source: the maker's own code that made the program, such as `mine.py:make_program`; null for other models. It
            is never run because a bundle names it: its user names it.
    """

    shipped: bool
    checkpoint: str | None
    model_sha256: str
    config_sha256: str
    calibration_data: str | None
    calibration: str | None
    eval_data: str | None
    eval_sha256: str
    options: tuple[str, ...]
    source: str | None = None

    def __post_init__(self) -> None:
        digests = {"model_sha256": self.model_sha256, "config_sha256": self.config_sha256}
        if self.eval_sha256:
            digests["eval_sha256"] = self.eval_sha256
        for name, digest in digests.items():
            if not _DIGEST.fullmatch(digest):
                raise ConfigError(f"{name} is {digest!r}", hint="64 lower-case hexadecimal digits")
        if self.shipped and self.checkpoint is not None:
            raise ConfigError(f"checkpoint is {self.checkpoint!r} of a model that was shipped", hint="must be null")
        paths = (self.checkpoint, self.calibration_data, self.calibration, self.eval_data, self.source)
        for text in (*paths, *self.options):
            if text is not None and not can_be_recorded(text):
                raise ConfigError(f"a path or option is {text!r}", hint="printable characters, at least one")
        self._pairs()

    def _pairs(self) -> list[tuple[str, ...]]:
        """Every option with its values."""
        pairs, rest = [], list(self.options)
        while rest:
            count = OPTIONS.get(rest[0])
            if count is None or len(rest) <= count:
                raise ConfigError(
                    f"options hold {rest[0]!r}", hint=f"known, each with its value: {', '.join(sorted(OPTIONS))}"
                )
            pairs.append(tuple(rest[: count + 1]))
            del rest[: count + 1]
        return pairs

    def given(self, option: str) -> tuple[str, ...]:
        """The values of an option, one for each time that it was given."""
        return tuple(pair[1] for pair in self._pairs() if pair[0] == option)

    def has(self, option: str) -> bool:
        """Whether an option was given."""
        return any(pair[0] == option for pair in self._pairs())

    def arguments(self, *, same_precision: bool, without: Collection[str] = ()) -> str:
        """What to append to `aigc-export export NAME --target ... --precision ...` to export the same again.

        Args:
            same_precision: whether it is asked for in the same precision; what only one takes is left out otherwise.
            without: options that what it is exported for does not take.
        """
        words: list[str] = []
        for option, path in (
            ("--checkpoint", self.checkpoint),
            ("--calibration-data", self.calibration_data),
            ("--calibration", self.calibration if same_precision else None),
            ("--eval-data", self.eval_data),
        ):
            words += [] if path is None else [option, path]
        for pair in self._pairs():
            fits = same_precision or pair[0] not in _OF_ONE_PRECISION
            if fits and pair[0] not in without:
                words += pair
        return shlex.join(words)


def can_be_recorded(text: str) -> bool:
    """Whether a path may stand in a manifest: characters that a terminal shows and UTF-8 can hold."""
    return 0 < len(text) <= MAX_TEXT and text.isprintable()
