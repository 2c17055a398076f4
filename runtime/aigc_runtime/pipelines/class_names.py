"""Names of classes: which names are allowed, and how a user's `flower,2` becomes labels."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence

from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.io.printable import shown

__all__ = ["check_class_names", "class_table", "parse_classes"]

MAX_NAME = 255
SHOWN = 20
"""Names in a message."""


def check_class_names(names: Sequence[str] | None, num_classes: int | None, *, what: str = "class_names") -> None:
    """Refuse names that are not one printable, distinct name for every class; None, for classes without names, passes.

    Raises:
        ConfigError: names the entry and what is allowed.
    """
    if names is None:
        return
    if len(names) != (num_classes or 0):
        raise ConfigError(f"{what} has {len(names)} entries, num_classes is {num_classes}", hint="give one for each")
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        allowed = isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()
        if not allowed:
            raise ConfigError(
                f"{what}[{index}] is {name!a}",
                hint=f"a name has 1 to {MAX_NAME} printable characters and no space at its ends",
            )
        # Two spellings of one accented letter look the same to whoever types the name.
        first = seen.setdefault(unicodedata.normalize("NFC", name), index)
        if first != index:
            raise ConfigError(f"{what} holds {name!r} twice, as {first} and {index}", hint="give each class its own")


def class_table(names: Sequence[str]) -> str:
    """Labels and names in one line, cut where there are many.

    >>> class_table(("china", "flower"))
    '0 china, 1 flower'
    """
    more = f", ... {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"{label} {name}" for label, name in enumerate(names[:SHOWN])) + more


def parse_classes(text: str, names: Sequence[str] | None, num_classes: int) -> list[int]:
    """Labels of what a user typed: names or numbers, with commas between.

    A name counts before a number: where the classes are called "1" and "2", "1" is the first of them.

    >>> parse_classes("flower,0", ("china", "flower"), 2)
    [1, 0]

    Raises:
        InputError: neither a name nor a label; lists the names.
    """
    labels = {unicodedata.normalize("NFC", name): label for label, name in enumerate(names or ())}
    whole = unicodedata.normalize("NFC", text)
    if whole in labels:  # a name may hold a comma
        return [labels[whole]]
    return [_label(part.strip(), labels, num_classes) for part in whole.split(",")]


def _label(part: str, labels: dict[str, int], num_classes: int) -> int:
    if part in labels:
        return labels[part]
    if part.isascii() and part.isdecimal() and len(part) < 10 and int(part) < num_classes:
        return int(part)
    span = "0" if num_classes == 1 else f"0 to {num_classes - 1}"
    if not labels:
        raise InputError(f"no class {shown(part)}", hint=f"classes are numbers, {span}, with commas between")
    near = difflib.get_close_matches(part, labels, n=1)
    hint = f"classes: {class_table(list(labels))}; give names or numbers, with commas between"
    raise InputError(f"no class {shown(part)}", hint=hint + (f". Did you mean {near[0]!r}?" if near else ""))
