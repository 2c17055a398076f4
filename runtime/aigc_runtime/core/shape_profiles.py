"""Ranges of shapes that an engine takes, by its named dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aigc_runtime.errors import ConfigError, FeedError

__all__ = ["ShapeProfile", "choose_profile", "example_option"]


@dataclass(frozen=True, kw_only=True)
class ShapeProfile:
    """One range of shapes that an engine is optimized for.

    Attributes:
        name: for messages.
        dims: named dimension -> (smallest, the one it is optimized for, largest).
    """

    name: str
    dims: dict[str, tuple[int, int, int]]

    def __post_init__(self) -> None:
        for dim, (low, best, high) in self.dims.items():
            if not 0 <= low <= best <= high:
                raise ConfigError(
                    f"profile {self.name!r}: {dim} is {low}:{best}:{high}",
                    hint="give smallest:best:largest, in that order, none below 0",
                )

    def sizes(self, kind: int) -> dict[str, int]:
        """The smallest (0), best (1) or largest (2) size of every dimension."""
        return {name: sizes[kind] for name, sizes in self.dims.items()}

    def admits(self, sizes: Mapping[str, int]) -> bool:
        """Whether every size that it knows is within its range."""
        return all(low <= sizes[dim] <= high for dim, (low, _, high) in self.dims.items() if dim in sizes)

    def __str__(self) -> str:
        ranges = ", ".join(f"{dim} {low} to {high}" for dim, (low, _, high) in self.dims.items())
        return f"{self.name}: {ranges or 'fixed shapes'}"


def choose_profile(profiles: Iterable[ShapeProfile], sizes: Mapping[str, int]) -> int:
    """The index of the profile to run sizes with: of those that admit them, the one with the narrowest ranges.

    A decoding step fits into the prefill profile as well; the narrower one has the faster kernels.

    Args:
        profiles: of the engine, in its order.
        sizes: of the named dimensions.

    Raises:
        FeedError: none admits them; lists the ranges.
    """
    known = list(profiles)
    fitting = [i for i, profile in enumerate(known) if profile.admits(sizes)]
    if not fitting:
        asked = ", ".join(f"{dim} {size}" for dim, size in sizes.items())
        ranges = "\n".join(str(profile) for profile in known)
        raise FeedError(
            f"no profile of the engine takes {asked}",
            hint=f"{ranges}\nask for a size within, or export again with --profile {example_option(sizes)}",
        )
    return min(fitting, key=lambda i: (_volume(known[i]), i))


def example_option(sizes: Mapping[str, int]) -> str:
    """The command line's `--profile` for a range up to `sizes`.

    >>> example_option({"batch": 9, "past": 0})
    'batch=1:9:9,past=0:0:0'
    """
    return ",".join(f"{dim}={min(1, size)}:{size}:{size}" for dim, size in sizes.items())


def _volume(profile: ShapeProfile) -> int:
    total = 1
    for low, _, high in profile.dims.values():
        total *= high - low + 1
    return total
