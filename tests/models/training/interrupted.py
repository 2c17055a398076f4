"""Runs that end in the middle and go on, beside those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from aigc_models.training.every import Every
from aigc_models.training.families import train_family
from aigc_models.weights.checkpoint import WEIGHTS_FILE


class Stopped(Exception):
    pass


def assert_resumes_bit_for_bit(folder: Path, name: str, *, stop_at: int, **options: Any) -> None:
    """Train once in one go and once in two, and compare weights, losses and quality."""

    def on_step(step: int, _steps: int, _losses: dict[str, float]) -> None:
        if step == stop_at:
            raise Stopped

    options["save_every"] = Every(steps=1)
    whole = train_family(name, output=folder / "whole", **options)
    with pytest.raises(Stopped):
        train_family(name, output=folder / "parts", on_step=on_step, **options)
    parts = train_family(name, output=folder / "parts", resume=True, **options)
    one, other = (load_file(folder / which / WEIGHTS_FILE) for which in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(one[key].equal(other[key]) for key in one)
    assert whole["quality"] == parts["quality"]
    # step, losses and learning rate; not the seconds
    curves = [
        [line.rsplit(",", 1)[0] for line in (folder / which / "curve.csv").read_text().splitlines()]
        for which in ("whole", "parts")
    ]
    assert curves[0] == curves[1]
