"""What to quantize and how, as one frozen value."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aigc_calibration.plan import SitePrecision
from aigc_calibration.ranges import METHODS, Method, RangeChoice
from aigc_calibration.smooth import SOURCES, Source
from aigc_runtime.errors import ConfigError, UnknownNameError
from aigc_runtime.io.printable import shown

WeightMethod = Literal["rtn", "gptq", "awq"]
WEIGHT_METHODS: tuple[WeightMethod, ...] = ("rtn", "gptq", "awq")
BLOCKS = (32, 64, 128)
FOUR_BIT_BLOCK = 64
"""Of 4-bit weights where none is asked for and it divides them: with zero points they make SmolLM2 diverge no more than
32 did without (docs/adr/0051-asymmetric-codes.md)."""
MAX_SAMPLES = 1_000_000

__all__ = ["BLOCKS", "WEIGHT_METHODS", "QuantConfig", "WeightMethod"]


@dataclass(frozen=True, kw_only=True)
class QuantConfig:
    """How a graph is quantized.

    Attributes:
        ranges: how activation ranges are found: a method of `ranges.find_amax` for all, or `auto`, each by what it does
            to the outputs (`choose_ranges`).
        percentile: for the method `percentile`.
        weight_ranges: how the range of each output channel of a weight is found, with the activations in 8 bits.
        affine: find ranges with a zero point too, for engines whose 8-bit activations have one.
        attention: quantize products of two activations too.
        split_skips: give each branch of a concatenation its own range (`split.split_skips`), in 8 bits.
        rotate: rotate residual streams (`rotate.rotate`), in int8. None: by what it does to the outputs
            (`choose_rotation`).
        smooth: strength of SmoothQuant, 0 to 1, by where it is folded to; see `smooth.SmoothGroup.source`.
        equalize: strength of `equalize.equalize`, 0 to 1, in int8; 0 leaves all channels of results as they are. None:
            by what it does to the outputs (`choose_equalization`).
        gain_smoothing: strength of `smooth_gains`, 0 to 1, for weights in blocks of 8 bits; 0 leaves gains as they are.
        sensitive: modules that stay float because 8 bits cost them too much: a path, or its beginning up to a dot.
        keep_float: modules that the user keeps float, named as in `sensitive`: in every precision and in every mix.
        float_share: of the work of all sites, what may stay float where that takes much of the noise away
            (`choose_float`), in `int8` and `fp8`; 0 chooses none.
        samples: to calibrate on; None: as many as the model takes where nobody asks for a number.
        weight_method: how weights are rounded: `rtn` (to nearest), `gptq`, or, of weights alone, `awq` (AWQ's scales,
            then GPTQ). None: to nearest in the precisions that `nearest` names, by GPTQ in the others.
        nearest: precisions whose weights a better rounding gains nothing for, where no method is asked for.
        block: numbers of such a weight that share a scale: 32, 64 or 128. None: of 4 bits 64, or 32 where 64 do not
            divide a weight; of 8 bits as many as make little more noise than 32 (`choose_blocks`).
        whole_rows: give a weight of 8 bits one scale for all that is summed where that makes little more noise, so that
            an engine for prompts can multiply whole rows of codes (`choose_blocks`); only where `block` is None.
        weight_zero_points: give each block of 4-bit weights a zero point, so that its codes lie between its least and
            its largest number.
        wide: modules, as in `sensitive`, whose weight takes 8 bits where the others take 4.
    """

    ranges: RangeChoice = "auto"
    percentile: float = 99.99
    weight_ranges: Method = "mse"
    affine: bool = True
    attention: bool = False
    split_skips: bool = False
    rotate: bool | None = None
    smooth: Mapping[Source, float] = field(default_factory=dict)
    equalize: float | None = None
    gain_smoothing: float = 0.0
    sensitive: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    float_share: float = 0.1
    samples: int | None = None
    weight_method: WeightMethod | None = None
    nearest: tuple[SitePrecision, ...] = ()
    block: int | None = 32
    whole_rows: bool = False
    weight_zero_points: bool = True
    wide: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ranges not in ("auto", *METHODS):
            raise UnknownNameError("range method", self.ranges, ("auto", *METHODS))
        if self.weight_ranges not in METHODS:
            raise UnknownNameError("range method", self.weight_ranges, METHODS)
        if not 0 < self.percentile <= 100:
            raise ConfigError(f"percentile is {self.percentile}", hint="must be above 0, at most 100")
        for source in self.smooth:
            if source not in SOURCES:
                raise UnknownNameError("place of smoothing", source, SOURCES)
        if not all(0 <= alpha <= 1 for alpha in self.smooth.values()):
            raise ConfigError(f"smooth is {dict(self.smooth)}", hint="strengths lie between 0 and 1")
        if self.equalize is not None and not 0 <= self.equalize <= 1:
            raise ConfigError(f"equalize is {self.equalize}", hint="strengths lie between 0 and 1")
        if not 0 <= self.float_share < 1:
            raise ConfigError(
                f"float_share is {shown(self.float_share)}", hint="a share lies between 0 and 1, without 1"
            )
        if not 0 <= self.gain_smoothing <= 1:
            raise ConfigError(f"gain_smoothing is {self.gain_smoothing}", hint="strengths lie between 0 and 1")
        if self.weight_method not in (None, *WEIGHT_METHODS):
            raise UnknownNameError("weight method", str(self.weight_method), WEIGHT_METHODS)
        if self.block not in (None, *BLOCKS):
            raise ConfigError(f"block is {self.block}", hint=f"valid: {', '.join(map(str, BLOCKS))}")
        if self.samples is not None and not 1 <= self.samples <= MAX_SAMPLES:
            raise ConfigError(f"samples is {shown(self.samples)}", hint=f"must be from 1 to {MAX_SAMPLES:,}")

    @property
    def smallest_block(self) -> int:
        """Numbers of a weight in blocks that share a scale, where no more of them do."""
        return self.block or BLOCKS[0]

    def block_of(self, precision: SitePrecision, width: int) -> int:
        """Return how many numbers of a weight share a scale, before any is measured.

        Args:
            precision: of the weight.
            width: numbers that are summed.
        """
        if self.block is None and precision == "int4-weight" and width % FOUR_BIT_BLOCK == 0:
            return FOUR_BIT_BLOCK
        return self.smallest_block

    def has_zero_points(self, precision: SitePrecision) -> bool:
        """Check whether the blocks of a weight have zero points in a precision."""
        return self.weight_zero_points and precision == "int4-weight"

    def chooses_blocks(self, precision: SitePrecision) -> bool:
        """Check whether the blocks of a precision are chosen by the samples."""
        return precision == "int8-weight" and self.block is None

    def method_for(self, precision: SitePrecision) -> WeightMethod:
        """Return how weights are rounded in a precision."""
        return self.weight_method or ("rtn" if precision in self.nearest else "gptq")

    def smooths_gains(self, precision: SitePrecision) -> bool:
        """Check whether gains are smoothed for a precision; AWQ has its own scales."""
        return precision == "int8-weight" and self.gain_smoothing > 0 and self.weight_method != "awq"

    def why_float(self, module: str) -> str:
        """Say why a module stays float; empty if it need not."""
        if _among(module, self.keep_float):
            return "asked to stay float"
        return "the configuration keeps it float" if _among(module, self.sensitive) else ""

    def check_modules(self, modules: Collection[str]) -> tuple[str, ...]:
        """Check the names of modules against those of a graph.

        Args:
            modules: paths of all modules that could be quantized.

        Returns:
            A warning for each name in `sensitive` and `wide` that none of them has: it changes nothing.

        Raises:
            ConfigError: a module in `keep_float`, which the user named, is not there.
        """
        known = sorted(module for module in set(modules) if module)
        for path in self.keep_float:
            if not _is_there(path, known):
                raise ConfigError(
                    f"keep_float: module {path!r} was not found among those that can be quantized",
                    hint=f"nearest: {_nearest(path, known)}; `aigc-export sensitivity` lists all of a model",
                )
        named = [("sensitive", path) for path in self.sensitive] + [("wide", path) for path in self.wide]
        return tuple(
            f"{what} names the module {path!r}, which is not among those that can be quantized, and so changes nothing "
            f"(nearest: {_nearest(path, known)})"
            for what, path in named
            if not _is_there(path, known)
        )

    def widens(self, module: str) -> bool:
        """Check whether a module's weight takes 8 bits where the others take 4."""
        return _among(module, self.wide)


def _among(module: str, paths: tuple[str, ...]) -> bool:
    return any(module == path or module.startswith(f"{path}.") for path in paths)


def _is_there(path: str, known: Sequence[str]) -> bool:
    return any(_among(module, (path,)) for module in known)


def _nearest(path: str, known: Sequence[str]) -> str:
    return ", ".join(difflib.get_close_matches(path, known, n=3, cutoff=0.4) or known[:8])
