"""From a bundle back to what it was made from: found, or said to be missing or another; never compared in silence."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from aigc_calibration.config import QuantConfig
from aigc_export.cli import run
from aigc_export.cli.export import export as export_command
from aigc_export.line.engines import check_build
from aigc_export.line.exporter import export_model
from aigc_export.line.origin import load_original, make_origin
from aigc_export.prepare import prepare as front
from aigc_export.prepare.calibration_data import calibration_data
from aigc_export.recipes.recipe import ExportRecipe, export_recipe
from aigc_export.targets.profiles import parse_profile
from aigc_export.targets.tensorrt.settings import BuildSettings
from aigc_export.tools.verifier import verify_against_torch
from aigc_export.workloads.evaluate import program_evaluation
from aigc_models.data.kept_data import data_files
from aigc_models.data.text_data import TextData
from aigc_models.evaluation.evaluation import STANDARD_LIBRARY
from aigc_models.sources.shipped import load_shipped
from aigc_models.weights.checkpoint import load_checkpoint, save_checkpoint
from aigc_runtime.backends.base import EngineProof
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.origin import OPTIONS, Origin
from aigc_runtime.errors import CheckpointError

from ...models.sources.diffusers.small import write_pipeline
from ..conftest import recipe_of, tiny_lm, write_checkpoint
from ..tools.test_devices import BUILD


def lines(kind: str, count: int) -> bytes:
    return b"".join(b"%s %d is a line.\n" % (kind.encode(), i) for i in range(count))


POEMS = TextData(train_pieces=(lines("poem", 400),), held_out_pieces=(lines("verse", 60),))


def write_poems(folder: Path) -> Path:
    """A language model that was trained on poems."""
    torch.manual_seed(0)
    module = tiny_lm()
    files = data_files("poems", POEMS)
    record = {"family": "lm", "model": module.config.to_dict(), "tokenizer": {"kind": "bytes"}}
    save_checkpoint(folder, module, record, extra_files=files)
    return folder


def edited(bundle: Path, **changes: Any) -> Bundle:
    """The bundle with another manifest."""
    opened = Bundle.open(bundle)
    files: dict[str, bytes | Path] = {f.path: opened.read(f.path) for f in opened.manifest.files}
    write_bundle(bundle, replace(opened.manifest, files=(), **changes), files)
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint `my poems` and its bundle, which was evaluated on the poems."""
    folder = tmp_path_factory.mktemp("own")
    write_poems(folder / "my poems")
    recipe = export_recipe("lm", checkpoint=str(folder / "my poems"), quality_samples=4, threads=1)
    export_model(recipe, folder / "bundle")
    return folder


def test_the_manifest_and_the_table_name_the_data(exported: Path) -> None:
    manifest = Bundle.open(exported / "bundle").manifest
    assert [(q.metric, q.data) for q in manifest.quality] == [
        (metric, "held-out part of 'poems'") for metric in ("perplexity", "bits_per_byte")
    ]
    assert manifest.origin == make_origin(
        load_shipped("lm", checkpoint=exported / "my poems"),
        export_recipe("lm", checkpoint=str(exported / "my poems"), quality_samples=4),
        program_evaluation(load_shipped("lm", checkpoint=exported / "my poems")),
    )
    assert manifest.origin is not None
    assert manifest.origin.checkpoint == str(exported / "my poems")


def test_verify_finds_the_weights_and_the_text(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(exported / "bundle")
    assert run(["verify", bundle, "--quality-samples", "4", "--threads", "1"]) == 0
    table = capsys.readouterr().out  # cells are folded, so that a name may stand on two lines
    assert table.count("bits_per_byte on held-out") == 1
    assert table.count("'poems'") >= 5  # every measure names what it was measured on
    assert "warning" not in table
    assert run(["verify", bundle, "--quality-samples", "0", "--threads", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["checkpoint"] == str(exported / "my poems" / "model.safetensors")
    assert run(["bench", bundle, "--runs", "1", "--rounds", "1", "--threads", "1"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_sides_are_those_of_the_export(dynamic: bool, tmp_path: Path) -> None:
    write_pipeline(tmp_path / "ddpm")
    recipe = export_recipe(str(tmp_path / "ddpm"), spec_options={"dynamic_size": dynamic}, quality_samples=0)
    bundle = export_model(recipe, tmp_path / "out").bundle
    program = load_original(bundle)
    assert (program.part.interface.dim("height") is not None) == dynamic


def test_a_folder_of_ones_own_with_the_name_of_a_shipped_model(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "unet")
    bundle = export_model(export_recipe(str(tmp_path / "unet"), quality_samples=0), tmp_path / "out").bundle
    assert bundle.manifest.name == "unet"
    assert load_original(bundle).module_sha256 == load_original(bundle, tmp_path / "unet").module_sha256
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty' has no model\.safetensors"):
        load_original(bundle, tmp_path / "empty")


def test_own_text_is_not_evaluated_on_the_standard_library(exported: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(exported / "bundle")
    found = verify_against_torch(bundle, quality_samples=4, threads=1)
    (tmp_path / "other.txt").write_bytes(lines("other", 60))
    other = verify_against_torch(bundle, quality_samples=4, eval_data=tmp_path / "other.txt", threads=1)
    shutil.copytree(exported / "my poems", tmp_path / "copy")
    (tmp_path / "copy" / "data.json").unlink()
    plain = verify_against_torch(bundle, checkpoint=tmp_path / "copy", quality_samples=4, threads=1)
    data = [v.report.quality[0].data for v in (found, other, plain)]
    assert data == ["held-out part of 'poems'", "'other.txt'", STANDARD_LIBRARY]
    assert len({v.report.quality[0].reference for v in (found, other, plain)}) == 3
    assert found.notes == other.notes == ()
    assert plain.notes == (
        f"evaluated on {STANDARD_LIBRARY}; the export used held-out part of 'poems', which was not found",
    )


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run([*arguments, "--threads", "1"]) == 2
    captured = capsys.readouterr()
    assert "missed" not in captured.out + captured.err
    return captured.err


def test_other_weights_are_an_input_error_and_not_missed_parity(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported / "bundle", tmp_path / "bundle")
    bundle = str(tmp_path / "bundle")
    digest = load_checkpoint(exported / "my poems").sha256
    other = write_checkpoint(tmp_path / "other", "lm", seed=1)
    for verb in ("verify", "bench"):
        told = refusal([verb, bundle, "--checkpoint", str(other)], capsys)
        assert f"the checkpoint '{other}' is not the one that the bundle was made from: its weights have" in told
        assert f"name it with --checkpoint: its weights have SHA-256 {digest}" in told
    origin = Bundle.open(bundle).manifest.origin
    assert origin is not None
    monkeypatch.chdir(tmp_path)
    edited(tmp_path / "bundle", origin=replace(origin, checkpoint="gone/poems"))
    told = refusal(["verify", bundle], capsys)
    assert f"made from the checkpoint 'gone/poems', which is not there (looked in '{tmp_path}')" in told
    assert digest in told
    edited(tmp_path / "bundle", origin=replace(origin, checkpoint=None))
    assert "its manifest does not say where they are" in refusal(["verify", bundle], capsys)
    edited(tmp_path / "bundle", origin=replace(origin, checkpoint="//server/share"))
    assert "its manifest does not say where they are" in refusal(["verify", bundle], capsys)
    edited(tmp_path / "bundle", origin=replace(origin, checkpoint=None, shipped=True))
    assert run(["verify", bundle, "--quality-samples", "0"]) in (2, 4)
    edited(tmp_path / "bundle", origin=None)
    told = refusal(["verify", bundle, "--checkpoint", "other"], capsys)
    assert "is not the one that the bundle was made from" in told
    assert load_original(Bundle.open(bundle), exported / "my poems").weights_sha256 == digest


def test_an_edited_config_is_another_model(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "my poems", tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    config["model"]["rope"]["theta"] = 500.0
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"not the one that the bundle was made from: its config\.json says"):
        load_original(Bundle.open(exported / "bundle"), tmp_path / "copy")


def test_the_same_numbers_in_another_file_are_the_same_model(exported: Path, tmp_path: Path) -> None:
    found = load_checkpoint(exported / "my poems")
    (tmp_path / "again").mkdir()
    doubles = {name: tensor.double() for name, tensor in reversed(dict(found.tensors).items())}
    save_file(doubles, tmp_path / "again" / "model.safetensors", {"free": "text"})
    (tmp_path / "again" / "config.json").write_text(json.dumps(found.config, indent=1))
    again = load_original(Bundle.open(exported / "bundle"), tmp_path / "again")
    assert again.weights_sha256 != found.sha256
    assert again.module_sha256 == load_shipped("lm", checkpoint=exported / "my poems").module_sha256


def test_compare_judges_on_the_text_of_the_export(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(exported / "bundle")
    given = ["compare", bundle, bundle, "--quality-samples", "4", "--runs", "1", "--rounds", "1", "--threads", "1"]
    assert run([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quality"][0]["data"] == "held-out part of 'poems'"
    held_out = exported / "my poems" / "held_out.txt"
    assert run([*given, "--json", "--eval-data", str(held_out)]) == 0
    assert json.loads(capsys.readouterr().out)["quality"][0]["data"] == "'held_out.txt'"


@pytest.mark.slow
def test_text_named_at_the_export_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "lm", "lm")
    (tmp_path / "mine.txt").write_bytes(lines("mine", 60))
    recipe = export_recipe("lm", checkpoint="lm", quality_samples=2, eval_data="mine.txt", threads=1)
    told: list[tuple[str, str]] = []
    result = export_model(recipe, tmp_path / "out", stage=lambda *what: told.append(what))
    assert result.warnings == ()
    assert {q.data for q in result.bundle.manifest.quality} == {"'mine.txt'"}
    again = verify_against_torch(result.bundle, quality_samples=2, threads=1)
    assert {q.data for q in again.report.quality} == {"'mine.txt'"}
    (tmp_path / "mine.txt").write_bytes(lines("yours", 60))
    changed = verify_against_torch(result.bundle, quality_samples=2, threads=1)
    assert {q.data for q in changed.report.quality} == {STANDARD_LIBRARY}
    assert len(changed.notes) == 1


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export ends where the work would begin."""

    def end(*_: object, **__: object) -> None:
        raise CheckpointError("far enough")

    monkeypatch.setattr(front, "capture", end)


@pytest.mark.usefixtures("no_work")
def test_own_weights_without_text_are_told_what_they_are_judged_on(exported: Path, checkpoints: Path) -> None:
    for folder, expected in ((checkpoints / "lm", 1), (exported / "my poems", 0)):
        told: list[tuple[str, str]] = []
        with pytest.raises(CheckpointError, match="far enough"):
            export_model(recipe_of("lm", folder), exported / "never", stage=lambda *what: told.append(what))  # noqa: B023
        warnings = [text for name, text in told if name == "warning"]
        assert len(warnings) == expected
        assert all(w.startswith("the checkpoint keeps no text of its own: it is evaluated on") for w in warnings)


# The options that a manifest keeps give the same recipe again


def parsed(arguments: list[str]) -> ExportRecipe:
    """The recipe that the command line makes of arguments."""
    seen: list[ExportRecipe] = []

    def catch(recipe: ExportRecipe, *_: object, **__: object) -> None:
        seen.append(recipe)
        raise CheckpointError("caught")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aigc_export.line.exporter.export_model", catch)
        CliRunner().invoke(export_command, arguments)
    return seen[0]


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "text": {
        "target": "tensorrt-rtx",
        "precision": "int8",
        "spec_options": {"cache": "buffer"},
        "keep_float": ("lm_head", "layers.0"),
        "calibration_samples": 7,
        "ranges": "kl",
        "weight_ranges": "minmax",
        "rotate": True,
        "split_skips": True,
        "equalize": 0.25,
        "float_share": 0.05,
        "seed": 5,
        "quality_samples": 9,
        "calibration_data": "my data/it's",
        "eval_data": "other",
        "tolerance": {"min_sqnr_db": 12.5, "max_over_rms": 1e-05},
    },
    "weights": {"precision": "int4", "weight_method": "rtn", "block": 64, "calibration": None},
    "as it was": {"target": "tensorrt-rtx", "precision": "int8", "rotate": False},
    "symmetric": {"precision": "int4", "weight_zero_points": False},
    "file": {"precision": "fp8", "calibration": "a b.npz"},
    "engine": {
        "target": "tensorrt-rtx",
        "precision": "fp16",
        "build": BuildSettings(
            compute_capabilities=("8.6",),
            profiles=(parse_profile("decode/batch=1:1:8,sequence=1", number=0), parse_profile("batch=4", number=1)),
            workspace_bytes=64 << 20,
            optimization_level=0,
            weight_streaming=True,
            tf32=True,
        ),
    },
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_options_of_an_origin_give_the_recipe_again(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "a b", "lm")
    recipe = export_recipe("lm", checkpoint=str(folder), **RECIPES[name])
    loaded = load_shipped("lm", checkpoint=folder)
    origin = make_origin(loaded, recipe, program_evaluation(loaded))
    capabilities = [w for c in getattr(recipe.build, "compute_capabilities", ()) for w in ("--compute-capability", c)]
    words = shlex.split(origin.arguments(same_precision=True, without=()))
    again = parsed(
        ["lm", "--target", recipe.target.name, "--precision", recipe.precision, "-o", "x", *capabilities, *words]
    )
    options = {k: v for k, v in again.spec_options.items() if v is not None}
    assert replace(again, spec_options=options) == recipe


@pytest.mark.parametrize(("device", "precision"), [("8.9", "int8"), ("t4", "fp16")])
def test_the_command_that_check_prints_exports_the_same_model_again(
    device: str, precision: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported / "bundle", tmp_path / "bundle")
    options: dict[str, Any] = {
        "checkpoint": str(exported / "my poems"),
        "spec_options": {"cache": "growing"},
        "ranges": "kl",
    }
    options |= {"target": "tensorrt-rtx", "calibration_data": "my data/it's", "keep_float": ("lm_head",)}
    recipe = export_recipe("lm", precision="int8", **options)
    loaded = load_shipped("lm", checkpoint=exported / "my poems")
    manifest = Bundle.open(tmp_path / "bundle").manifest
    engine = replace(manifest.engine, kind="tensorrt-rtx", build=BUILD, proof=EngineProof(parity="graph"))
    origin = make_origin(loaded, recipe, program_evaluation(loaded))
    edited(tmp_path / "bundle", engines={"model": engine}, precision="int8", target="tensorrt-rtx", origin=origin)
    assert run(["check", str(tmp_path / "bundle"), "--device", device]) == 5
    command = capsys.readouterr().out.split("aigc-export export ")[1].splitlines()[0]
    again = parsed(shlex.split(command))
    check_build(again)
    assert (again.model, again.target.name, again.precision) == ("lm", "tensorrt-rtx", precision)
    assert again.checkpoint == str(exported / "my poems")
    assert again.calibration_data == "my data/it's"
    assert again.spec_options["cache"] == "growing"
    assert again.quantization is not None
    assert again.quantization.keep_float == ("lm_head",)
    assert again.quantization.ranges == ("kl" if precision == "int8" else QuantConfig().ranges)
    expected = ("8.6", "12.0", "8.9") if precision == "int8" else ("7.5",)
    assert again.build.compute_capabilities == expected


def test_every_option_that_is_kept_is_one_of_the_command() -> None:
    known = {name for parameter in export_command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert OPTIONS.keys() <= known


def test_a_path_that_cannot_be_written_down_is_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), "gan")
    loaded = load_shipped("gan", checkpoint=folder)
    origin = make_origin(loaded, export_recipe("gan", checkpoint=str(folder)), program_evaluation(loaded))
    assert (origin.shipped, origin.checkpoint) == (False, None)
    assert Origin.__dataclass_fields__.keys() == vars(origin).keys()


# Calibration


def test_calibration_reads_the_models_own_text_and_never_what_is_held_out(exported: Path, tmp_path: Path) -> None:
    from aigc_export.workloads.samples.text import calibration_documents

    def read(path: Path | None) -> list[bytes]:
        settings = Bundle.open(exported / "bundle").manifest.pipeline.settings
        found = calibration_documents(path, settings, own_text=train, held_out=held_out, render=None)
        return [document.text for document in found]

    held_out, train = POEMS.held_out_pieces, POEMS.train_pieces
    assert read(None) == list(train)
    (tmp_path / "all.txt").write_bytes(train[0] + held_out[0])
    assert read(tmp_path / "all.txt") == [train[0]]
    (tmp_path / "all.txt").write_bytes(held_out[0])
    with pytest.raises(Exception, match="is text that quality is measured on"):
        read(tmp_path / "all.txt")


@pytest.mark.usefixtures("no_work")
def test_a_text_model_is_calibrated_on_what_it_was_trained_on(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def recorded(*arguments: Any, **options: Any) -> Any:
        seen.append(calibration_data(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(front, "calibration_data", recorded)
    recipe = recipe_of("lm", exported / "my poems", precision="int4")
    with pytest.raises(CheckpointError, match="far enough"):
        export_model(recipe, exported / "never")
    assert bytes(seen[0].tokens.astype("u1")) == POEMS.train_pieces[0]
