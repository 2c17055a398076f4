"""The workload of models from text to pictures: what each engine is proven and calibrated on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_calibration.errors import CalibrationError
from aigc_export.workloads import get_workload
from aigc_export.workloads.base import EvaluationFacts, EvaluatorRequest, SampleRequest
from aigc_export.workloads.samples import text_to_image as samples
from aigc_export.workloads.samples.prompts import PROMPTS, photo_crops, read_prompts, rectangle_mask
from aigc_models.program import Program
from aigc_models.sources import resolve
from aigc_models.torch_session import open_torch
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import ConfigError
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline

from ...models.sources.diffusers.small_sd import write_stable_diffusion

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
WORKLOAD = get_workload("text_to_image")
PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("sd") / "tiny"
    write_stable_diffusion(folder)
    return resolve(str(folder))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("sd") / "tiny"
    write_stable_diffusion(folder, "inpainting")
    return resolve(str(folder))


def test_every_engine_is_proven_at_several_shapes(program: Program) -> None:
    opened = open_torch(program)
    cases = list(WORKLOAD.cases(program, opened, np.random.default_rng(0)))
    assert len({case.name for case in cases}) == len(cases)
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for case in cases:
        ((engine, feeds),) = case.steps
        assert all(np.isfinite(array).all() for array in opened.session(engine).run(feeds).values())
        shapes.setdefault(engine, set()).add(next(iter(feeds.values())).shape)
    assert shapes["text_encoder"] == {(1, 77), (2, 77)}
    assert shapes["unet"] == shapes["vae_decoder"] == {(1, 4, 16, 16), (2, 4, 8, 16)}
    assert shapes["vae_encoder"] == {(1, 3, 128, 128), (2, 3, 64, 128)}


def test_the_reference_request_is_one_that_a_bundle_may_hold(program: Program, inpainting: Program) -> None:
    for one, arrays in ((program, set()), (inpainting, {"image", "mask"})):
        request = WORKLOAD.request(one, open_torch(one), 3)
        assert {name for name, value in request.items() if isinstance(value, np.ndarray)} == arrays
        assert (request["size"], request["seed"], request["output"]) == ([128, 128], 3, "images")
        pipeline = TextToImagePipeline(open_torch(one), one.settings, one.engines)
        assert pipeline.request(**request).count == 1


def batches(program: Program, part: str, **given: Any) -> tuple[Any, list[dict[str, Array]]]:
    request = SampleRequest(path=given.pop("path", None), samples=given.pop("samples", 2), seed=1)
    data = WORKLOAD.calibration(program, program.parts[part], request)
    session = open_torch(program).session(part)
    return data, list(data.batches(session.run))


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_fed_what_the_pipeline_feeds_it(program: Program, part: str) -> None:
    data, fed = batches(program, part)
    assert data.samples == 2
    assert data.rows == sum(len(next(iter(feeds.values()))) for feeds in fed)
    assert data.rows % data.samples == 0
    session = ArraySession(lambda _: {}, program.parts[part].interface)
    assert all(feeds.keys() == {spec.name for spec in session.interface.inputs} for feeds in fed)
    first, again = fed[0], batches(program, part)[1][0]
    assert all(np.array_equal(first[name], again[name]) for name in first)
    if part == "unet":
        steps = sorted({float(feeds["timestep"][0]) for feeds in fed})
        assert steps[0] < 150 < 850 < steps[-1]
        assert len(fed) == 2 * 11  # PNDM does its first step twice
        assert all(len(feeds["sample"]) == 2 for feeds in fed)
        conditions = fed[0]["encoder_hidden_states"]
        assert not np.array_equal(conditions[0], conditions[1])
    if part == "vae_encoder":
        assert -1 <= min(feeds["image"].min() for feeds in fed) < 0 < max(feeds["image"].max() for feeds in fed) <= 1


def test_the_pipeline_is_run_once_for_a_prompt(program: Program) -> None:
    request = SampleRequest(path=None, samples=2, seed=1)
    data = WORKLOAD.calibration(program, program.parts["unet"], request)
    run = open_torch(program).session("unet").run
    first = next(data.batches(run))  # and no further

    def never(_: Any) -> Any:
        raise AssertionError("the second prompt was not fed yet, and every run of it counts")

    assert next(data.batches(never))["sample"] is first["sample"]
    whole = list(data.batches(run))
    again = list(data.batches(never))
    assert len(whole) == len(again) == 22
    assert all(one is other for one, other in zip(whole, again, strict=True))
    _, straight = batches(program, "unet")
    assert all(np.array_equal(a["sample"], b["sample"]) for a, b in zip(whole, straight, strict=True))


def test_a_large_program_runs_few_steps_of_other_noise_levels_for_each_prompt(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "LARGE_PROGRAM", 1)
    data, fed = batches(program, "unet", samples=4)
    assert data.rows == sum(len(feeds["sample"]) for feeds in fed)
    assert len(fed) == 2 + 2 + 3 + 3  # of 3, 4, 5 and 6: PNDM does its first step twice
    assert len({float(feeds["timestep"][0]) for feeds in fed}) > 5


def test_the_decoder_of_a_large_program_is_fed_photos_by_its_encoder(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[None] = []
    hook = program.parts["unet"].module.register_forward_hook(lambda *_: runs.append(None))
    try:
        monkeypatch.setattr(samples, "LARGE_PROGRAM", 1)
        data, fed = batches(program, "vae_decoder", samples=3)
        assert not runs
        assert data.rows == len(fed) == 6
        _, pictures = batches(program, "vae_encoder", samples=3)
        bare = {role: engine for role, engine in program.engines.items() if role != "vae_encoder"}
        batches(replace(program, engines=bare), "vae_decoder", samples=1)
        assert len(runs) == 3  # PNDM does its first step twice
    finally:
        hook.remove()
    encode = open_torch(program).session("vae_encoder").run
    assert all(picture["image"].shape == (1, 3, 64, 64) for picture in pictures)  # half of each side
    for number, (latent, picture) in enumerate(zip(fed, pictures, strict=True)):
        if number % 2 == 0:
            assert np.array_equal(latent["latent"], encode(picture)["mean"])
        else:  # noise, as large as what the UNet begins with
            assert latent["latent"].shape == encode(picture)["mean"].shape
            assert np.std(latent["latent"] * program.settings.scaling_factor) == pytest.approx(1, abs=0.2)


def test_a_large_program_of_one_size_is_fed_pictures_of_it(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LARGE_PROGRAM", 1)
    fixed = dict(program.parts)
    for name in ("vae_decoder", "vae_encoder"):
        interface = fixed[name].interface
        side = {"vae_decoder": 16, "vae_encoder": 128}[name]
        dims = [replace(d, min=side, max=side) if d.name in ("height", "width") else d for d in interface.dims]
        fixed[name] = replace(fixed[name], interface=interface.with_dims(dims))
    _, fed = batches(replace(program, parts=fixed), "vae_encoder", samples=1)
    assert [feeds["image"].shape for feeds in fed] == [(1, 3, 128, 128)] * 2


def test_a_unet_that_takes_a_picture_is_fed_one(inpainting: Program) -> None:
    _, fed = batches(inpainting, "unet", samples=1)
    mask = fed[0]["sample"][:, 4]
    assert set(np.unique(mask)) == {0, 1}
    assert 0.1 < mask.mean() < 0.5


def test_prompts_of_the_user(program: Program, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red fox\n\n  the light  \n")
    assert read_prompts(tmp_path / "prompts.txt") == ("a red fox", "the light")
    data, fed = batches(program, "text_encoder", path=tmp_path / "prompts.txt", samples=8)
    assert (data.samples, len(fed)) == (2, 2)
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(CalibrationError, match="holds no prompts"):
        batches(program, "unet", path=tmp_path / "none.txt")
    np.savez(tmp_path / "x.npz", sample=np.zeros(2))
    with pytest.raises(CalibrationError, match="holds arrays, and every engine is fed by the others"):
        batches(program, "unet", path=tmp_path / "x.npz")
    with pytest.raises(ConfigError, match="cannot evaluate a model from text to pictures"):
        WORKLOAD.evaluation(program.settings, EvaluationFacts(eval_data="x.txt"))


def test_the_evaluator_sees_an_engine_that_is_off(program: Program) -> None:
    opened = open_torch(program)
    evaluate = WORKLOAD.evaluator(
        EvaluatorRequest(
            reference=opened,
            settings=program.settings,
            roles=program.engines,
            evaluation=WORKLOAD.evaluation(program.settings, EvaluationFacts(program=program)),
            samples=2,
            seed=0,
        )
    )
    psnr, steps = evaluate(open_torch(program)).paired
    assert (psnr.name, steps.name) == ("psnr_db", "step_sqnr_db")
    assert psnr.value > 100
    unet = opened.session("unet")
    off = ArraySession(
        lambda values: {name: array * np.float32(1.05) for name, array in unet.run(values).items()}, unet.interface
    )
    worse, worse_steps = evaluate(OpenProgram({**opened.sessions, "unet": off}, assets=program.assets)).paired
    assert worse.value < 60
    assert worse_steps.value == pytest.approx(-20 * np.log10(0.05), abs=0.1)


def test_photos_and_masks_have_the_size_that_is_asked_for() -> None:
    crops = photo_crops("china.jpg", (32, 48), 3, 1)
    assert crops.shape == (3, 32, 48, 3)
    assert crops.dtype == np.uint8
    assert not np.array_equal(crops[0], crops[1])
    assert photo_crops("china.jpg", (600, 700), 1, 1).shape == (1, 600, 700, 3)  # larger than the photo
    mask = rectangle_mask((32, 48), np.random.default_rng(0))
    assert (mask.shape, (mask == 255).mean()) == ((32, 48), 0.25)
    assert len(set(PROMPTS)) == 24
