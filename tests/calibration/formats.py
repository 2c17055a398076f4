"""The format of every target, by its name."""

from typing import Any

from aigc_export.targets.table import TARGETS

FORMATS = {name: target.format for name, target in TARGETS.items()}


def asked(target: str) -> dict[str, Any]:
    """What a target asks of `quantize`."""
    return {"form": TARGETS[target].format, "executed": TARGETS[target].executed}
