"""Precisions of a program of several parts: one for all, or one for each that is named and one for the rest."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from aigc_runtime.errors import ConfigError, UnknownNameError

__all__ = ["check_parts", "joint_precisions", "lowest_precision", "parse_precisions", "precisions_text"]

DEFAULT = "fp32"
"""Of the parts that are not named."""
_FROM_HIGH_TO_LOW = ("fp32", "fp16", "bf16", "int8-weight", "int8", "fp8", "int4", "auto")


def parse_precisions(text: str) -> tuple[str, dict[str, str]]:
    """Read a precision, or several: the precision of the rest, and that of each part that is named.

    >>> parse_precisions("int8")
    ('int8', {})
    >>> parse_precisions("fp16,unet=int8,vae_decoder=fp32")
    ('fp16', {'unet': 'int8', 'vae_decoder': 'fp32'})
    >>> parse_precisions("unet=int8")
    ('fp32', {'unet': 'int8'})

    Raises:
        ConfigError: two precisions for one part, or for the rest; one without its part; or a search for a part alone.
    """
    rest: str | None = None
    parts: dict[str, str] = {}
    for item in text.split(","):
        name, equals, precision = (word.strip() for word in item.partition("="))
        if not equals:
            if rest is not None:
                raise ConfigError(f"precision is {text!r}: two are for all parts", hint="write PART=PRECISION for each")
            rest = name
        elif not name or not precision:
            raise ConfigError(f"precision is {text!r}", hint="write PART=PRECISION, such as unet=int8,vae_decoder=fp16")
        elif precision == "auto":
            raise ConfigError(
                f"precision is {text!r}: a search is for all parts that have no precision of their own",
                hint="write auto,PART=PRECISION,... and leave out the parts that it shall choose for",
            )
        elif name in parts:
            raise ConfigError(f"precision is {text!r}: {name!r} has two", hint="leave one out")
        else:
            parts[name] = precision
    return DEFAULT if rest is None else rest, parts


def lowest_precision(precisions: Iterable[str]) -> str:
    """Choose the precision whose limits are the widest; one of a kind of its own stands alone.

    >>> lowest_precision(["fp16", "int8", "fp32"])
    'int8'
    """
    found = list(dict.fromkeys(precisions))
    return found[0] if len(found) == 1 else max(found, key=_FROM_HIGH_TO_LOW.index)


def joint_precisions(chosen: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Write the precisions of all parts as `parse_precisions` reads them: that of the rest, and those of single parts.

    >>> joint_precisions({"unet": "int8", "vae_decoder": "fp32"})
    ('fp32', {'unet': 'int8'})
    >>> joint_precisions({"unet": "int8", "vae_decoder": "int8"})
    ('int8', {})
    """
    if len(distinct := set(chosen.values())) == 1:
        return distinct.pop(), {}
    return DEFAULT, {part: precision for part, precision in chosen.items() if precision != DEFAULT}


def precisions_text(chosen: Mapping[str, str]) -> str:
    """Write the precisions of all parts as `--precision` takes them.

    >>> precisions_text({"unet": "int8", "vae_decoder": "fp16", "vae_encoder": "fp32"})
    'unet=int8,vae_decoder=fp16'
    """
    rest, parts = joint_precisions(chosen)
    return ",".join(f"{part}={precision}" for part, precision in parts.items()) or rest


def check_parts(parts: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse a precision of a part that a program has not.

    Raises:
        UnknownNameError: lists the parts.
    """
    for name in parts:
        if name not in known:
            raise UnknownNameError("part", name, known)
