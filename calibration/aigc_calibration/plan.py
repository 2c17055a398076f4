"""The quantization plan: the precision of every site of a graph, and the reason.

Calibration and search end in a plan, and emitters start from one. It is plain JSON. Weights' codes and scales, which
may be large, travel beside it (`weights.QuantizedWeight`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from aigc_calibration.errors import PlanError
from aigc_calibration.sites import Site
from aigc_runtime.errors import UnknownNameError
from aigc_runtime.io.jsonable import from_json, to_json
from aigc_runtime.io.strict_json import loads_strict

__all__ = [
    "HALF_PRECISIONS",
    "PRECISIONS",
    "LookupPlan",
    "OpPlan",
    "QuantizationPlan",
    "SitePrecision",
    "TensorPlan",
    "as_site_precision",
    "inner_ops",
    "parse_plan",
]

PLAN_VERSION = 2
SitePrecision = Literal["float", "fp16", "bf16", "int8", "fp8", "int8-weight", "int4-weight"]
PRECISIONS: tuple[SitePrecision, ...] = ("float", "fp16", "bf16", "int8", "fp8", "int8-weight", "int4-weight")
"""Of a site: kept as it is; operands in 16 bits; activations and weight in 8 bits; the weight alone."""

HALF_PRECISIONS = frozenset({"fp16", "bf16"})


def as_site_precision(name: str) -> SitePrecision:
    """Convert a name to the precision of a site.

    Raises:
        UnknownNameError: no site can have it.
    """
    for precision in PRECISIONS:
        if name == precision:
            return precision
    if name == "int4":  # there is no arithmetic in 4 bits, so the short name is plain enough
        return "int4-weight"
    raise UnknownNameError("precision of a site", name, PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """The range of one activation.

    Attributes:
        name: of the value in the float graph.
        amax: magnitude of the largest code of a symmetric grid.
        method: how it was found.
        instability: how far the ranges of the two halves of the samples are apart, relative to `amax`.
        bounds: (low, high) of a grid of 256 codes with a zero point, low <= 0 <= high, for engines that take one; None:
            such engines take the symmetric grid as well.
    """

    name: str
    amax: float
    method: str
    instability: float
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds or (-1.0, 1.0)
        if not (math.isfinite(self.amax) and self.amax >= 0 and -math.inf < low <= 0 <= high < math.inf):
            raise PlanError(f"the range of {self.name!r} is {self.amax}, {self.bounds}", hint="calibrate again")


@dataclass(frozen=True, kw_only=True)
class OpPlan:
    """The precision of one site.

    Attributes:
        node: name in the float graph.
        op_type: its operator.
        module: the PyTorch module it came from.
        precision: one of `PRECISIONS`.
        activations: values that are quantized on their way in; named in `QuantizationPlan.tensors`.
        output: the result, where its range is known, for engines that quantize it too.
        weight: the constant that is quantized, or None.
        block: numbers of a weight that share a scale, along the summed axis; None: one scale per output channel.
        why: one sentence.
        within: what the site lies in, such as "a body of the Loop 'steps'"; empty in the main graph. A site inside of
            something stays float.
    """

    node: str
    op_type: str
    module: str
    precision: SitePrecision
    activations: tuple[str, ...]
    output: str | None
    weight: str | None
    block: int | None
    why: str
    within: str = ""


@dataclass(frozen=True, kw_only=True)
class LookupPlan:
    """The precision of one lookup of a table's rows; see `lookups`.

    Attributes:
        node: name in the float graph.
        module: the PyTorch module it came from.
        table: the constant whose rows are looked up.
        precision: `float` or `int8-weight`.
        block: numbers of a row that share a scale; None where it stays float.
        shares: the weight of the product whose codes are read; None where the table has codes of its own, or none.
        why: one sentence.
    """

    node: str
    module: str
    table: str
    precision: SitePrecision
    block: int | None
    shares: str | None
    why: str


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """The precision of every site of a graph, and of the tables that it looks up.

    Attributes:
        version: of this format.
        graph_sha256: digest of the float graph, transforms applied, that the plan belongs to.
        precision: what was asked for.
        transforms: what was done to the float graph beforehand, in order.
        ops: one per site of the main graph, in its order; then those inside bodies and functions, which stay float.
        tensors: ranges of activations and results.
        lookups: one per table that rows are looked up in, where the engine can look up codes.
        notes: sentences on how choices were made.
    """

    version: int
    graph_sha256: str
    precision: str
    transforms: tuple[str, ...]
    ops: tuple[OpPlan, ...]
    tensors: tuple[TensorPlan, ...]
    lookups: tuple[LookupPlan, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = {t.name for t in self.tensors}
        for op in self.ops:
            missing = [a for a in op.activations if a not in known] if op.precision in {"int8", "fp8"} else []
            if missing:
                raise PlanError(f"the plan has no range for {missing[0]!r}, which {op.node!r} reads")
            if op.within and op.precision != "float":
                raise PlanError(f"the plan quantizes {op.node!r}, which is in {op.within}", hint="calibrate again")

    @property
    def ranges(self) -> Mapping[str, TensorPlan]:
        """Map each value to its range."""
        return {t.name: t for t in self.tensors}

    def quantized(self) -> tuple[OpPlan, ...]:
        """Return the sites that do not stay float."""
        return tuple(op for op in self.ops if op.precision != "float")

    def counts(self) -> dict[str, int]:
        """Count the sites of each precision."""
        return dict(Counter(op.precision for op in self.ops))

    def with_float(self, nodes: Mapping[str, str]) -> QuantizationPlan:
        """Copy the plan with some sites left float (node -> why)."""
        ops = tuple(
            replace(o, precision="float", why=nodes[o.node]) if o.node in nodes and o.precision != "float" else o
            for o in self.ops
        )
        return replace(self, ops=ops)

    def dump(self) -> bytes:
        """Serialize the plan as JSON."""
        return (json.dumps(to_json(self), indent=1, allow_nan=False) + "\n").encode()


def inner_ops(sites: Iterable[Site]) -> tuple[OpPlan, ...]:
    """What becomes of the sites inside bodies and functions, of `sites.inner_sites`: they stay float."""
    return tuple(
        OpPlan(
            node=site.node,
            op_type=site.op_type,
            module=site.module,
            precision="float",
            activations=(),
            output=None,
            weight=site.weight,
            block=None,
            why=f"it is in {site.within}, whose values cannot be observed",
            within=site.within,
        )
        for site in sites
    )


def parse_plan(data: bytes, *, what: str = "the plan") -> QuantizationPlan:
    """Read a plan strictly.

    Raises:
        PlanError: not a plan, or of another version; names the field.
    """
    value = loads_strict(data, what=what)
    if not isinstance(value, dict) or not isinstance(value.get("version"), int):
        raise PlanError(f"{what} is not a quantization plan")
    if value["version"] != PLAN_VERSION:
        raise PlanError(
            f"{what} has version {value['version']}, this is for version {PLAN_VERSION}",
            hint="upgrade" if value["version"] > PLAN_VERSION else "calibrate and export again",
        )
    return from_json(QuantizationPlan, value, error=PlanError)
