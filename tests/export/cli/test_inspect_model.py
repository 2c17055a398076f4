"""`aigc-export inspect MODEL` says what a model is before any work, and what cannot be one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.models.sources.diffusers.small_sd import write_stable_diffusion
from tests.models.sources.transformers.small_models import VOCABULARY, small_model

from aigc_export.cli import run
from aigc_export.cli.inspect_model import model_facts
from aigc_export.line.estimate import Machine
from aigc_export.targets.table import TARGETS

Capture = pytest.CaptureFixture[str]
PLENTY = Machine(memory_bytes=10**12, disk_bytes=10**12, temporary_bytes=10**12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "Small"
    small_model("mistral").save_pretrained(path)
    return path


def test_the_facts_of_a_folder(folder: Path) -> None:
    found = model_facts(str(folder), PLENTY)
    model = small_model("mistral")
    assert (found["source"], found["architecture"], found["family"]) == (
        "transformers",
        "MistralForCausalLM",
        "mistral",
    )
    assert found["parameters"] == model.num_parameters() == sum(found["parameters_of"].values())
    assert found["parameters_of"]["embedding"] == VOCABULARY * model.config.hidden_size
    shape = found["shape"]
    assert (shape["heads"], shape["kv_heads"], shape["window"]) == (6, 2, model.config.sliding_window)
    assert shape["window_layers"] == list(range(model.config.num_hidden_layers))
    head = model.config.head_dim or model.config.hidden_size // 6
    token = 2 * model.config.num_hidden_layers * 2 * head * 4
    assert found["cache"] == {
        "token_bytes": token,
        "growing_most_bytes": token * model.config.max_position_embeddings,
        "buffer_bytes": token * model.config.max_position_embeddings,
    }
    assert found["text"]["tokenizer"] == "none"
    assert found["text"]["eos_token_ids"] == [2]


def test_what_each_target_runs_is_what_it_says_itself(folder: Path) -> None:
    found = model_facts(str(folder), PLENTY)["targets"]
    for name, target in TARGETS.items():
        assert found[name]["precisions"] == list(target.precisions)
        assert found[name]["refused"] == dict(target.refused)


def test_of_a_pipeline_auto_chooses_for_each_part(tmp_path: Path, capsys: Capture) -> None:
    write_stable_diffusion(tmp_path / "sd")
    assert run(["inspect", str(tmp_path / "sd"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "auto" in found["targets"]["ort-cpu"]["precisions"]
    assert "auto" in found["targets"]["ort-cuda"]["refused"]
    assert any(note.startswith("auto chooses a precision for each of the parts") for note in found["notes"])


def test_sizes_and_what_does_not_fit(folder: Path) -> None:
    rich, poor = (
        model_facts(str(folder), machine)["precisions"]
        for machine in (PLENTY, Machine(memory_bytes=1000, disk_bytes=1000, temporary_bytes=1000))
    )
    assert rich["int4"]["bundle_bytes"] < rich["fp16"]["bundle_bytes"] < rich["fp32"]["bundle_bytes"]
    assert rich["auto"]["bundle_bytes"] is None
    assert all(taken["fits_memory"] and taken["fits_disk"] for taken in rich.values())
    assert not any(taken["fits_memory"] or taken["fits_disk"] for taken in poor.values())
    config = small_model("mistral").config
    assert rich["fp32"]["weights_bytes"] == 4 * small_model("mistral").num_parameters()
    assert config.vocab_size == VOCABULARY


def test_text_says_the_same(folder: Path, capsys: Capture) -> None:
    assert run(["inspect", str(folder)]) == 0
    told = capsys.readouterr().out
    assert f"parameters: {small_model('mistral').num_parameters():,}" in told
    for part in ("MistralForCausalLM", "window:", "KV cache:", "chat template: none", "ort-cuda does not run int4"):
        assert part in told
    assert "measured on two cores of an AMD EPYC" in told
    assert run(["inspect", "gan"]) == 0
    assert "gan, family gan, gan; source shipped" in capsys.readouterr().out
    assert run(["inspect", "nothing.py:here"]) == 0
    assert "nothing is known of its model before it runs" in capsys.readouterr().out


def test_rope_scaling_and_unrotated_layers_are_told(tmp_path: Path, capsys: Capture) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 32, "rope_theta": 500000.0}  # fmt: skip
    small_model("llama", rope_parameters=scaling).save_pretrained(tmp_path / "l")
    assert run(["inspect", str(tmp_path / "l")]) == 0
    assert "theta 500,000, scaling llama3 by 8" in capsys.readouterr().out


def test_json(folder: Path, capsys: Capture) -> None:
    assert run(["inspect", str(folder), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["schema"] == "aigc-export-inspect-model/1"
    assert document["precisions"]["fp32"]["seconds"] > 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (None, "nn.TransformerEncoder (.safetensors, .pt, .pth)"),
        ({}, "config.json"),
        ({"config.json": "{}"}, "names no model"),
        ({"config.json": '{"model_type": "llama4"}'}, "the nearest is 'llama'"),
        ({"config.json": '{"model_type": "llama"}'}, "has no model.safetensors"),
        ({"config.json": '{"model_type": "llama"}', "model.safetensors": "x" * 99}, "not a safetensors file"),
        ({"config.json": "{"}, "not valid"),
    ],
)
def test_what_cannot_be_inspected(make: dict[str, str] | None, told: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m"
    if make is not None:
        path.mkdir()
        for name, content in make.items():
            (path / name).write_text(content)
    assert run(["inspect", str(path)]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_no_pytorch_and_no_engine_is_imported(folder: Path) -> None:
    code = "import sys; from aigc_export.cli import run; run(['inspect', sys.argv[1]]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "aigc_export" in loaded
    assert not loaded & {"torch", "onnx", "onnx_ir", "onnxruntime", "scipy", "sklearn", "transformers"}
