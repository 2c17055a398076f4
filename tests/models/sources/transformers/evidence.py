"""What is measured of every family beside transformers, and the table of docs/models.md that is made of it.

`python -m tests.models.sources.transformers.evidence` writes the table; `test_families.py` checks it.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.models.sources.transformers.published import count_parameters, published
from tests.models.sources.transformers.small_models import (
    PROMPTS,
    SCALED,
    SMALL,
    logits_error,
    our_text,
    pair_of,
    text_of,
    token_ids,
)

from aigc_models.sources.transformers.families import FAMILIES, read_config

PAGE = Path(__file__).parents[4] / "docs" / "models.md"
CACHES: tuple[Any, ...] = ("growing", "buffer")
HEAD = """\
| `model_type` | published models whose config.json is read | rotary positions | logits | tokens | seconds |
| --- | --- | --- | --- | --- | --- |
"""
ROW = re.compile(r"^\| `(\w+)` \| (.*) \| (.*) \| ([\d.e-]+) \| ([\d,]+) of ([\d,]+) \| ([\d.]+) \|$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured.

    Attributes:
        error: the largest of our logits, relative to the scale of transformers'.
        margin: by how much the first token's logit was above the second's, at least; relative likewise.
        tokens: how many greedy tokens were compared.
        equal: how many of them were transformers'.
        seconds: of this process on the processor.
    """

    error: float
    margin: float
    tokens: int
    equal: int
    seconds: float


@cache
def evidence_of(name: str) -> Evidence:
    """Compare a family, or one of `SCALED`: logits, and texts of a ragged batch and alone, over both caches."""
    started = time.process_time()
    pair, expected = pair_of(name), text_of(name)
    error = max(logits_error(pair.ours, pair.theirs, ids) for ids in (token_ids(), token_ids(1, 5)))
    caches = CACHES if name in SMALL else (CACHES[list(SCALED).index(name) % 2],)
    same: list[bool] = []
    for form in caches:
        found = our_text(pair.ours, form)
        if name in SMALL:
            found += our_text(pair.ours, form, PROMPTS[:1])
        for ours, theirs in zip(found, [*expected.tokens, *expected.tokens[:1]], strict=False):
            same += [one == other for one, other in zip(ours, theirs, strict=True)]
    return Evidence(
        error=error,
        margin=expected.margin,
        tokens=len(same),
        equal=sum(same),
        seconds=time.process_time() - started,
    )


def names_of(family: str) -> list[str]:
    """The cases of a family."""
    return [family, *(name for name, change in SCALED.items() if change["family"] == family)]


def family_evidence(family: str) -> Evidence:
    """All cases of a family together."""
    all_of = [evidence_of(name) for name in names_of(family)]
    return Evidence(
        error=max(one.error for one in all_of),
        margin=min(one.margin for one in all_of),
        tokens=sum(one.tokens for one in all_of),
        equal=sum(one.equal for one in all_of),
        seconds=sum(one.seconds for one in all_of),
    )


def rounded_up(number: float) -> str:
    """One digit, never less than the number.

    >>> rounded_up(3.1e-06), rounded_up(2e-07)
    ('4e-06', '2e-07')
    """
    exponent = math.floor(math.log10(number))
    digit = math.ceil(round(number / 10**exponent, 6))
    return f"{digit * 10**exponent:.0e}"


def billions(count: int) -> str:
    return f"{count / 1e9:.3g} B" if count >= 999.5e6 else f"{count / 1e6:.3g} M"


def models_of(family: str) -> str:
    """The published models of a family with their parameters."""
    found = published(family).items()
    return ", ".join(f"{name} ({billions(count_parameters(read_config(config)))})" for name, config in found)


def positions_of(family: str) -> str:
    kinds = [name.split(" with ")[1] for name in names_of(family)[1:]]
    return ", ".join(kinds) if kinds else "none: learned"


def table() -> str:
    """The table as it is measured now."""
    rows = ""
    for family in FAMILIES:
        found = family_evidence(family)
        cells = (
            f"`{family}`",
            models_of(family),
            positions_of(family),
            rounded_up(found.error),
            f"{found.equal:,} of {found.tokens:,}",
            f"{found.seconds:.1f}",
        )
        rows += f"| {' | '.join(cells)} |\n"
    return HEAD + rows


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    start = before.index(HEAD)
    end = before.index("\n\n", start) + 1
    PAGE.write_text(before[:start] + table() + before[end:], encoding="utf-8")
