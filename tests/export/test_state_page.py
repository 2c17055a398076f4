"""The page on carried state: its code runs, and what it exports goes on as PyTorch does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aigc_export
import aigc_runtime
from aigc_runtime.core.tensors import Array

from ..runtime import mixed
from .graphs.test_carried_state import DIMS, EXAMPLE, Everything

PAGE = Path(__file__).parents[2] / "docs" / "state.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that the page's code ran in, and its names."""
    folder = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    return folder, names


def test_the_cell_of_the_page_is_the_lstm_over_the_whole_sequence(page: tuple[Path, dict[str, Any]]) -> None:
    folder, names = page
    assert names["y"].shape == (1, 4)
    module = names["program"].part.module.model
    lstm = torch.nn.LSTM(16, 32, batch_first=True)
    lstm.load_state_dict({f"{name}_l0": value for name, value in module.cell.state_dict().items()})
    x = torch.rand(3, 12, 16)
    with torch.no_grad():
        wanted = module.head(lstm(x)[0]).numpy()
    with aigc_runtime.open_pipeline(folder / "out" / "cell") as pipeline:
        state = pipeline.new_state(3)
        for t in range(12):
            found = pipeline.generate({"x": x[:, t].numpy()}, state)["y"]
            np.testing.assert_allclose(found, wanted[:, t], atol=1e-6)


def test_the_proof_of_a_recurrent_state_has_several_steps(page: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = page
    manifest = json.loads((folder / "out" / "cell" / "manifest.json").read_bytes())
    assert [s["kind"] for s in manifest["state"]["carried"]] == ["recurrent", "recurrent"]
    assert {len(case["steps"]) for case in manifest["reference"]["cases"]} == {3}


@pytest.mark.slow
def test_its_cell_in_8_bits_stays_close_over_many_steps(page: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, names = page
    aigc_export.export(names["program"], output=tmp_path / "int8", precision="int8", calibration_samples=16)
    x = np.random.default_rng(0).random((20, 3, 16), dtype=np.float32)
    results = []
    for bundle in (folder / "out" / "cell", tmp_path / "int8"):
        with aigc_runtime.open_pipeline(bundle) as pipeline:
            state = pipeline.new_state()
            results.append(np.stack([pipeline.generate({"x": one}, state)["y"] for one in x]))
    exact, rounded = results
    assert not np.array_equal(exact, rounded)
    signal, noise = float((exact**2).sum()), float(((exact - rounded) ** 2).sum())
    assert 10 * np.log10(signal / noise) > 20


@pytest.mark.slow
def test_a_module_with_state_of_every_kind_is_exported_and_proven(tmp_path: Path) -> None:
    program = aigc_export.program(Everything().eval(), EXAMPLE, dims=DIMS, state=mixed.STATE, name="everything")
    aigc_export.export(program, output=tmp_path / "out")
    rng = np.random.default_rng(0)
    with aigc_runtime.open_pipeline(tmp_path / "out") as pipeline:
        state, history = pipeline.new_state(2), list[Array]()
        for steps in (3, 1, 2):
            held = sum(x.shape[1] for x in history)
            history.append(mixed.draw(rng, 2, steps))
            found = pipeline.generate(mixed.feeds(history[-1], held), state)
            for name, value in mixed.expected(history).items():
                np.testing.assert_array_equal(found[name], value)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert max(len(case["steps"]) for case in manifest["reference"]["cases"]) == 3
