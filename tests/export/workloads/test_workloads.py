"""The table of workloads: complete, in step with the runtime's, and open to installed packages."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc_calibration.formats import SIGNED_FORMAT, UNSIGNED_FORMAT
from aigc_export.targets.table import TARGETS
from aigc_export.workloads import ENTRY_POINTS, WORKLOADS, get_workload
from aigc_models.data.image_data import digits
from aigc_models.evaluation.quality import image_quality
from aigc_models.torch_session import open_torch
from aigc_runtime.errors import ConfigError, UnknownNameError

from ..conftest import tiny_of


def test_every_kind_states_limits_of_every_precision() -> None:
    precisions = {p for target in TARGETS.values() for p in target.precisions} - {"auto"}
    for workload in WORKLOADS.values():
        assert precisions <= workload.tolerances.keys()
        for precision in precisions:
            assert workload.limits(precision) is workload.tolerances[precision]
        # What a kind does not make has no limit, and all else has one.
        limits = workload.limits("int8").limits()
        assert all(limits[name] is None for name in workload.foreign_limits)


def test_a_precision_without_limits_is_refused() -> None:
    with pytest.raises(ConfigError, match="the kind 'gan' states no tolerances for int3") as err:
        WORKLOADS["gan"].limits("int3")
    assert "fp16" in str(err.value.hint)


def test_limits_cannot_be_changed_in_the_table() -> None:
    with pytest.raises(TypeError):
        WORKLOADS["gan"].tolerances["fp32"] = None  # type: ignore[index]


def test_directions_of_measures() -> None:
    directions = {m.name: m.higher_is_better for workload in WORKLOADS.values() for m in workload.measures}
    assert directions == {
        "ppl_increase": False,
        "kl_divergence": False,
        "perplexity": False,
        "top1_agreement": True,
        "bits_per_byte": False,
        "psnr_db": True,
        "step_sqnr_db": True,
        "class_accuracy": True,
        "frechet_distance": False,
        "output_sqnr_db": True,
    }
    data = digits()
    found = image_quality(data.train[:20].numpy(), data.train_labels[:20].numpy())
    assert {m.name for m in found} == {m.name for m in WORKLOADS["gan"].measures if m.is_task}


def test_pairs_that_a_search_goes_through() -> None:
    gan, text, form = WORKLOADS["gan"], WORKLOADS["text"], UNSIGNED_FORMAT
    assert gan.searched_pairs("latency", form) == (("int8", "float"),)
    assert gan.searched_pairs("size", form) == (("int8", "float"), ("int4-weight", "int8-weight"))
    assert text.searched_pairs("size", form) == text.searched_pairs("latency", form)
    assert text.searched_pairs("size", form) == (("int8-weight", "float"), ("int4-weight", "int8-weight"))
    assert text.searched_pairs("size", SIGNED_FORMAT)[0] == ("int8", "float")


def test_eight_bits_of_text_are_in_blocks_where_the_engine_has_such_kernels() -> None:
    text = WORKLOADS["text"]
    assert text.run_as("int8", UNSIGNED_FORMAT) == "int8-weight"
    assert text.run_as("int8", SIGNED_FORMAT) == "int8"
    assert {text.run_as(name, UNSIGNED_FORMAT) for name in ("int4", "fp8")} == {"int4", "fp8"}
    assert WORKLOADS["gan"].run_as("int8", UNSIGNED_FORMAT) == "int8"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str, code: str) -> None:
    """An installed package that names a workload."""
    info = folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{kind} = others_workload:WORKLOAD\n")
    (folder / "others_workload.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "others_workload", raising=False)


def test_an_installed_package_brings_a_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of pipeline 'sound'") as unknown:
        get_workload("sound")
    assert unknown.value.valid == ("diffusion", "gan", "tensors", "text", "text_to_image", "upscale")
    code = """
from dataclasses import replace
from aigc_export.workloads.gan import GAN
WORKLOAD = replace(GAN, kind="sound", budget="psnr>=20")
"""
    install(tmp_path, monkeypatch, kind="sound", code=code)
    assert get_workload("sound").budget == "psnr>=20"
    assert "sound" not in WORKLOADS


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("WORKLOAD = 3", "int"),
        (
            "from aigc_export.workloads.gan import GAN as WORKLOAD",
            "which is that of .gan.",
        ),
        ("import nothing_of_this_name", "nothing_of_this_name"),
    ],
)
def test_a_package_that_names_something_else(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, kind="sound", code=code)
    with pytest.raises(ConfigError, match=message):
        get_workload("sound")


@pytest.mark.parametrize("name", ["lm-growing", "lm-buffer"])
def test_cases_of_text_keep_every_place_and_the_last(name: str) -> None:
    program = tiny_of(name).program
    single, ragged = get_workload("text").cases(program, open_torch(program), np.random.default_rng(0))
    kept = [[feeds["logits_to_keep"].tolist() for _, feeds in case.steps] for case in (single, ragged)]
    length = single.steps[0][1]["input_ids"].shape[1]
    assert length > 2
    assert kept == [[list(range(length)), [0], [0], [0]], [[length - 1], [0], [0], [0]]]


def test_a_large_vocabulary_keeps_places_all_over_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    program = tiny_of("lm-growing").program
    monkeypatch.setattr("aigc_export.workloads.text.CASE_LOGITS", 3 * program.settings.vocab_size + 1)
    single, _ = get_workload("text").cases(program, open_torch(program), np.random.default_rng(0))
    length = single.steps[0][1]["input_ids"].shape[1]
    places = single.steps[0][1]["logits_to_keep"].tolist()
    assert len(set(places)) == 3
    assert (min(places) >= 0, places[-1]) == (True, length - 1)
    assert max(np.diff(places)) <= -(-length // 3)


def test_cases_are_the_same_again_and_others_with_another_seed() -> None:
    from aigc_models.torch_session import TorchSession
    from aigc_runtime.core.program import as_program

    from ..conftest import make_program

    for name in ("lm-growing", "unet", "gan"):
        program = make_program(name)
        opened = as_program(TorchSession(program.part))
        plans = [
            list(get_workload(program.kind).cases(program, opened, np.random.default_rng(seed))) for seed in (0, 0, 1)
        ]
        bytes_of = [
            b"".join(array.tobytes() for plan in some for _, feeds in plan.steps for array in feeds.values())
            for some in plans
        ]
        assert bytes_of[0] == bytes_of[1] != bytes_of[2]
        assert [plan.name for plan in plans[0]] == [plan.name for plan in plans[2]]


def test_a_workload_is_a_value() -> None:
    changed = replace(WORKLOADS["gan"], probe_batches=1)
    assert changed.probe_batches == 1
    assert WORKLOADS["gan"].probe_batches != 1
