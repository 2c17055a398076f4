"""The whole line of a pipeline of Stable Diffusion: a folder of diffusers in, its pictures out without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aigc_export.cli import run
from aigc_export.line.exporter import export_model
from aigc_export.recipes.budget import parse_budget
from aigc_export.recipes.recipe import export_recipe
from aigc_export.recipes.search import SearchConfig
from aigc_runtime.bundle.bundle import load_bundle
from aigc_runtime.core.compare import psnr_db
from aigc_runtime.core.tensors import Array

from ...models.sources.diffusers.small_sd import SD15_TEXT, SD15_UNET, write_stable_diffusion
from ...models.sources.diffusers.small_sd import TWO_LEVELS as SMALL
from ...models.sources.diffusers.small_xl import write_stable_diffusion_xl

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers.*"),
]
PROMPT, SEED, STEPS = "a lighthouse at dusk", 7, 5
RUN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "diffusers", "transformers", "aigc_models"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
from aigc_runtime.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("sd")
    pipeline = write_stable_diffusion(folder / "sd", unet=SMALL["unet"], vae={"layers_per_block": 1})
    export_model(export_recipe(str(folder / "sd"), quality_samples=2), folder / "out")
    return pipeline, folder / "out"


def on_the_device(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def their_picture(pipeline: Any, *, seed: int = SEED) -> Array:
    given: dict[str, Any] = {"num_inference_steps": STEPS, "negative_prompt": "blur", "output_type": "np"}
    pictures = pipeline(PROMPT, generator=torch.Generator().manual_seed(seed), **given).images
    return np.asarray((pictures[0] * 255).round())


def test_a_process_without_torch_draws_diffusers_picture(made: tuple[Any, Path], tmp_path: Path) -> None:
    pipeline, bundle = made
    said = on_the_device("verify", str(bundle))
    assert "generation: psnr_db" in said
    assert "pass  tokens: 97 prompts, recorded by transformers 5." in said
    file = tmp_path / "lighthouse.png"
    asked = ["--prompt", PROMPT, "--negative", "blur", "--size", "128x128", "--steps", str(STEPS), "--seed", str(SEED)]
    said = on_the_device("generate", str(bundle), *asked, "-o", str(file))
    assert said == f"wrote {file}: 1 picture, 128 x 128 pixels, seed 7\n"
    with Image.open(file) as picture:
        found = np.asarray(picture).astype(np.float64)
        request = json.loads(picture.text["aigc-request"])  # type: ignore[attr-defined]
    assert (request["prompt"], request["seeds"], request["sampler"]) == (PROMPT, [SEED], "pndm")
    assert psnr_db(their_picture(pipeline), found) >= 50
    assert psnr_db(their_picture(pipeline, seed=SEED + 1), found) < 40


def test_the_bundle_holds_four_engines_and_the_tokenizer(made: tuple[Any, Path]) -> None:
    manifest = load_bundle(made[1]).manifest
    roles = ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    assert sorted(manifest.pipeline.engines) == roles
    assert sorted(manifest.engines) == roles
    assert manifest.assets == ("tokenizer.json",)
    assert manifest.pipeline.kind == "text_to_image"
    assert manifest.reference.text == "ref.text.json"
    assert manifest.provenance["text_recorded_by"].startswith("transformers 5.")
    assert {step.engine for case in manifest.reference.cases for step in case.steps} == set(roles)
    assert [result.metric for result in manifest.quality] == []


ONE_LEVEL: dict[str, Any] = {
    "unet": {
        "attention_head_dim": 2,
        "block_out_channels": (16,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "layers_per_block": 1,
        "transformer_layers_per_block": 1,
        "up_block_types": ("CrossAttnUpBlock2D",),
    },
    "vae": {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "layers_per_block": 1,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "text": {"num_hidden_layers": 2},
    "text_2": {"num_hidden_layers": 2},
}


PARTS = ("text_encoder", "text_encoder_2", "unet", "vae_decoder", "vae_encoder")


@pytest.mark.parametrize(
    ("precision", "rounded", "least_db"), [("fp16", PARTS, 50), ("unet=int8,vae_decoder=fp16", PARTS[2:4], 28)]
)
def test_stable_diffusion_xl_in_few_bits(
    precision: str, rounded: tuple[str, ...], least_db: float, tmp_path: Path
) -> None:
    pipeline = write_stable_diffusion_xl(tmp_path / "xl", **ONE_LEVEL)
    recipe = export_recipe(str(tmp_path / "xl"), precision=precision, quality_samples=0, calibration_samples=4)
    export_model(recipe, tmp_path / "out")
    manifest = load_bundle(tmp_path / "out").manifest
    assert manifest.precision == ("fp16" if rounded == PARTS else "mixed")
    assert tuple(name for name in PARTS if f"{name}.low_precision" in manifest.provenance) == rounded
    assert tuple(sorted(manifest.engines)) == PARTS
    assert manifest.assets == ("tokenizer.json", "tokenizer_2.json")
    file = tmp_path / "lighthouse.png"
    asked = ["--prompt", PROMPT, "--steps", str(STEPS), "--seed", str(SEED), "--original-size", "96x128"]
    on_the_device("generate", str(tmp_path / "out"), *asked, "-o", str(file))
    with Image.open(file) as picture:
        found = np.asarray(picture).astype(np.float64)
        request = json.loads(picture.text["aigc-request"])  # type: ignore[attr-defined]
    assert (request["original_size"], request["crop"], request["target_size"]) == ([96, 128], [0, 0], [16, 16])

    def theirs(*, seed: int = SEED, **sizes: Any) -> Array:
        given: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "np", **sizes}
        pictures = pipeline(PROMPT, generator=torch.Generator().manual_seed(seed), **given).images
        return np.asarray((pictures[0] * 255).round())

    assert psnr_db(theirs(original_size=(96, 128)), found) >= least_db
    assert psnr_db(theirs(original_size=(96, 128), seed=SEED + 1), found) < least_db
    assert precision != "fp16" or psnr_db(theirs(original_size=(1024, 1024)), found) < least_db


def write_one_level(folder: Path, *, xl: bool) -> Any:
    if xl:
        return write_stable_diffusion_xl(folder, **ONE_LEVEL)
    return write_stable_diffusion(
        folder,
        unet={**SD15_UNET, **ONE_LEVEL["unet"]},
        vae=ONE_LEVEL["vae"],
        text={**SD15_TEXT, **ONE_LEVEL["text"]},
    )


@pytest.mark.parametrize("xl", [False, True])
def test_auto_chooses_a_precision_for_each_part(xl: bool, tmp_path: Path) -> None:
    """By the pictures, which the encoder of pictures has no part in: it stays as it is."""
    pipeline = write_one_level(tmp_path / "sd", xl=xl)
    search = SearchConfig(budgets=(parse_budget("psnr>=25"),), objective="ops", samples=2)
    recipe = export_recipe(
        str(tmp_path / "sd"), precision="auto", search=search, quality_samples=2, calibration_samples=2
    )
    result = export_model(recipe, tmp_path / "out")
    found = result.search
    assert found is not None
    chosen = {one.part: one for one in found.parts if one.chosen}
    assert tuple(sorted(chosen)) == (PARTS if xl else tuple(part for part in PARTS if part != "text_encoder_2"))
    assert (chosen["vae_encoder"].precision, chosen["vae_encoder"].runs) == ("fp32", 0)
    assert "auto,vae_encoder=fp16" in found.kept["vae_encoder"]
    assert "int8" in {one.precision for one in chosen.values()}
    assert chosen["unet"].runs >= 50
    assert all(one.runs == 1 for part, one in chosen.items() if part == "vae_decoder" or part.startswith("text"))
    (shipped,) = [one for one in found.candidates if one.chosen]
    assert shipped.holds
    lower = [one for one in found.candidates if one.counts.get("int8", 0) > shipped.counts["int8"]]
    assert not any(one.holds for one in lower)
    file = tmp_path / "lighthouse.png"
    asked = ["--prompt", PROMPT, "--steps", str(STEPS), "--seed", str(SEED)]
    assert "generation: psnr_db" in on_the_device("verify", str(tmp_path / "out"))
    on_the_device("generate", str(tmp_path / "out"), *asked, "-o", str(file))
    with Image.open(file) as picture:
        drawn = np.asarray(picture).astype(np.float64)

    def theirs(seed: int) -> Array:
        given: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "np"}
        return np.asarray(
            (pipeline(PROMPT, generator=torch.Generator().manual_seed(seed), **given).images[0] * 255).round()
        )

    assert psnr_db(theirs(SEED), drawn) >= 20
    assert psnr_db(theirs(SEED + 1), drawn) < psnr_db(theirs(SEED), drawn)


def test_a_step_is_timed_beside_pytorch(made: tuple[Any, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(made[1]), "--rounds", "1", "--runs", "1", "--threads", "1"]) == 0
    told = capsys.readouterr().out
    assert "PyTorch " in told
    assert "of this machine's limits: 0." in told  # of several engines nobody says what a step reads
