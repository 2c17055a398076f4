"""The kind of pipeline that docs/pipelines.md shows is one: it opens, is proven and timed."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines import KINDS, PipelineKind, make_pipeline
from aigc_runtime.pipelines import kinds as kinds_module
from aigc_runtime.pipelines.replay import run_request
from aigc_runtime.pipelines.tensors import TensorsSettings
from aigc_runtime.proof.bench import bench_generation, bench_step

PAGE = (Path(__file__).parents[3] / "docs" / "pipelines.md").read_text(encoding="utf-8")
IMAGE = np.linspace(0.1, 1, 2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)


def blocks() -> list[dict[str, Any]]:
    """What each block of Python on the page defines."""
    found = []
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        names: dict[str, Any] = {"__name__": "page"}
        exec(compile(code, "docs/pipelines.md", "exec", dont_inherit=True), names)
        found.append(names)
    return found


def session(**changes: Any) -> ArraySession:
    """Disparity is the mean of the channels."""

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        return {"disparity": values["image"].mean(axis=1)}

    fields: dict[str, Any] = {
        "inputs": (TensorSpec(name="image", dtype="float32", shape=("batch", 3, 4, 4)),),
        "outputs": (TensorSpec(name="disparity", dtype="float32", shape=("batch", 4, 4)),),
        "dims": (DimSpec(name="batch", max=4),),
    }
    return ArraySession(function, Interface(**{**fields, **changes}))


def test_every_kind_is_on_the_page() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(KINDS)
    assert isinstance(blocks()[0]["settings"], TensorsSettings)


def test_the_kind_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = blocks()[1]
    kind = page["DEPTH"]
    assert isinstance(kind, PipelineKind)
    monkeypatch.setattr(kinds_module, "_installed", {"depth": kind})
    settings = page["DepthSettings"](size=(4, 4), focal_m=0.5)
    with make_pipeline(session(), settings) as pipeline:
        (form,) = kind.check_request(pipeline, {}, {"image"}).values()
        results = run_request(pipeline, {"image": IMAGE})
        assert form.fits(results["depth"])
        np.testing.assert_allclose(results["depth"], 0.5 / IMAGE.mean(axis=1), rtol=1e-6)
        assert kind.metric.measure(results, results) == 400
        with pytest.raises(ConfigError, match="not one image"):
            kind.check_request(pipeline, {}, ())
        with pytest.raises(InputError, match="no array"):
            pipeline.generate([1])
    assert bench_step(session(), settings, runs=2, warmup=0).runs == 2
    assert bench_generation(session(), settings, runs=1).unit == "image"
    with pytest.raises(ConfigError, match="'image' has shape"):
        make_pipeline(session(), page["DepthSettings"](size=(4, 5), focal_m=0.5))
    with pytest.raises(ConfigError, match="focal_m is 0"):
        page["DepthSettings"](size=(4, 4), focal_m=0)
    with pytest.raises(InputError, match="depth is for Python"):
        kind.verb().prepare(Namespace(), pipeline)
