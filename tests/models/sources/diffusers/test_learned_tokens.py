"""Textual inversions against diffusers' load_textual_inversion: ids, tables, and the latents of whole requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from aigc_models.program import Program
from aigc_models.sources import resolve
from aigc_models.sources.diffusers.learned_tokens import TABLE
from aigc_models.torch_session import open_torch
from aigc_runtime.errors import AigcError
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline

from .small_sd import END, SD15_UNET, clip_vocabulary, diffusers, write_stable_diffusion
from .small_xl import write_stable_diffusion_xl

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers.*"),
    pytest.mark.filterwarnings("ignore:.*embeddings:UserWarning"),
]
MAX_ERROR = 1e-4  # of the latents' scale
SEED, WIDTH, WIDTH_2 = 7, 24, 40
PROMPT = "a <cat> in my-style, the<cat>dusk, light"


def vectors(count: int, width: int = WIDTH) -> Tensor:
    torch.manual_seed(count)
    return torch.randn(count, width)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    write_stable_diffusion(folder / "sd", unet={**SD15_UNET, "layers_per_block": 1})
    write_stable_diffusion_xl(folder / "xl", "an end that is said")
    save_file({"<cat>": vectors(3)}, folder / "cat.safetensors")
    save_file({"emb_params": vectors(1)}, folder / "my-style.safetensors")
    save_file({"clip_l": vectors(2), "clip_g": vectors(2, WIDTH_2)}, folder / "both.safetensors")
    return folder


def opened(program: Program) -> TextToImagePipeline:
    return TextToImagePipeline(open_torch(program), program.settings, program.engines)


def table(program: Program, part: str = "text_encoder") -> Tensor:
    state: dict[str, Tensor] = program.parts[part].module.state_dict()
    return next(tensor for name, tensor in state.items() if name.endswith(TABLE))


def ids(pipeline: Any, tokenizer: Any, prompt: str) -> Any:
    """As diffusers' pipelines make them."""
    converted = pipeline.maybe_convert_prompt(prompt, tokenizer)
    given = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "np"}
    return tokenizer(converted, **given).input_ids


def latents(pipeline: Any, prompt: str) -> Any:
    given = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(SEED), "output_type": "latent"}
    return pipeline(prompt, **given).images.numpy()


def error(expected: Any, ours: Any) -> float:
    return float(np.abs(ours - expected).max() / expected.std())


def test_tokens_tables_and_latents_are_diffusers(original: Path) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(original / "sd", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_textual_inversion(original, weight_name="cat.safetensors")
    theirs.load_textual_inversion(original, weight_name="my-style.safetensors", token="my-style")
    files = (f"{original / 'cat.safetensors'}", f"{original / 'my-style.safetensors'}")
    ours = resolve(str(original / "sd"), options={"embedding": files})
    assert torch.equal(table(ours), theirs.text_encoder.get_input_embeddings().weight)
    with opened(ours) as mine:
        for prompt in (PROMPT, "a light", "<cat>" * 30, "my-style my-styles"):
            expected = ids(theirs, theirs.tokenizer, prompt)
            np.testing.assert_array_equal(mine.prompts.tokens["text_encoder"].encode([prompt]), expected)
        asked: dict[str, Any] = {"steps": 4, "seed": SEED, "output": "latents"}
        expected = latents(theirs, PROMPT)
        assert error(expected, mine.generate(PROMPT, **asked)) <= MAX_ERROR
    with opened(resolve(str(original / "sd"))) as plain:
        assert error(expected, plain.generate(PROMPT, **asked)) > MAX_ERROR
    assert ours.checkpoint is not None
    assert [text for text, _ in ours.checkpoint.adapters] == list(files)
    assert ours.weights_sha256 != resolve(str(original / "sd")).weights_sha256
    assert f"added the embedding {files[0]!r} as '<cat>': vectors: 3 for text_encoder" in ours.notes


def test_capital_letters_change_nothing(original: Path) -> None:
    """A tokenizer of CLIP reads small letters alone; diffusers takes the first vector alone where letters differ."""
    rows = []
    for token, prompt in (("<cat>", "a <cat>"), ("<Cat>", "a <Cat>"), ("<Cat>", "a <CAT>")):
        options = {"embedding": (f"{original / 'cat.safetensors'}:{token}",)}
        with opened(resolve(str(original / "sd"), options=options)) as mine:
            rows.append(mine.prompts.tokens["text_encoder"].encode([prompt]).tolist())
    assert rows[0] == rows[1] == rows[2]
    first = len(clip_vocabulary())
    assert rows[0][0][2:5] == [first, first + 1, first + 2]


def test_both_text_encoders_of_xl(original: Path) -> None:
    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(original / "xl")
    theirs.set_progress_bar_config(disable=True)
    for key, name, of in (("clip_l", "", vectors(2)), ("clip_g", "_2", vectors(2, WIDTH_2))):
        assert key
        components = {n: getattr(theirs, f"{n}{name}") for n in ("tokenizer", "text_encoder")}
        theirs.load_textual_inversion({"<two>": of}, token="<two>", **components)
    ours = resolve(str(original / "xl"), options={"embedding": (f"{original / 'both.safetensors'}:<two>",)})
    assert torch.equal(table(ours, "text_encoder_2"), theirs.text_encoder_2.get_input_embeddings().weight)
    prompt = "a <two> at dusk"
    with opened(ours) as mine:
        expected = latents(theirs, prompt)
        assert error(expected, mine.generate(prompt, steps=4, seed=SEED, output="latents")) <= MAX_ERROR
        assert error(expected, mine.generate("a light", steps=4, seed=SEED, output="latents")) > MAX_ERROR


def test_an_encoder_that_gets_no_vectors_is_told_of(original: Path) -> None:
    file = str(original / "cat.safetensors")
    program = resolve(str(original / "xl"), options={"embedding": (file,)})
    assert "text_encoder_2 does not know '<cat>'" in program.notes
    assert program.settings.second.multi_vector == ()
    assert program.settings.multi_vector == ((len(clip_vocabulary()), 3),)


@pytest.mark.parametrize(("token", "taken"), [(END, END), ("light</w>", "light</w>"), ("bright", "")])
def test_a_token_that_is_there_already(original: Path, token: str, taken: str) -> None:
    options = {"embedding": (f"{original / 'cat.safetensors'}:{token}",)}
    if not taken:
        assert resolve(str(original / "sd"), options=options)
        return
    with pytest.raises(AigcError, match=r"which the tokenizer has\nname another"):
        resolve(str(original / "sd"), options=options)


def test_vectors_of_another_model(original: Path) -> None:
    with pytest.raises(AigcError, match=r"vectors of 40 numbers for text_encoder_2"):
        resolve(str(original / "sd"), options={"embedding": (str(original / "both.safetensors"),)})
