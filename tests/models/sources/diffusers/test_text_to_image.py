"""Folders of Stable Diffusion: layouts that occur, what is passed over, and components that do not belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc_models.sources import outline, resolve
from aigc_models.sources.diffusers.text_to_image import read_text_to_image
from aigc_runtime.errors import AigcError, CheckpointError

from .small_sd import (
    BEGIN,
    END,
    LEADING,
    SD15_UNET,
    clip_vocabulary,
    diffusers,
    make_vae,
    write_stable_diffusion,
    write_tokenizer,
)

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
TEXT_FILE = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "sd"
    write_stable_diffusion(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "sd")
    return tmp_path / "sd"


def edit(file: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    parts = resolve(str(folder)).parts
    return {f"{n}.{k}": t for n, part in parts.items() for k, t in part.module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_outline_takes_no_weights(folder: Path) -> None:
    source, found = outline(str(folder))
    program = resolve(str(folder))
    assert (source, found.kind, found.architecture) == ("diffusers", "text_to_image", "StableDiffusionPipeline")
    assert found.parameters == program.parameters
    assert found.stored == {"float32": 4 * program.parameters}
    assert found.notes[0] == (
        "128 x 128 pixels; prompts of up to 75 tokens; sampler pndm, 1,000 training steps, the model predicts epsilon, "
        "guidance 7.5"
    )
    assert found.notes[-1].startswith("parameters: text_encoder ")


def test_the_safety_checker_is_passed_over_and_told(folder: Path) -> None:
    edit(
        folder / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    told = [note for note in resolve(str(folder)).notes if "safety checker" in note]
    assert told == ["the safety checker is not exported: nothing looks at the pictures that the bundle makes"]
    assert told[0] in outline(str(folder))[1].notes


def test_weights_of_older_versions(folder: Path) -> None:
    """Prefixes and computed buffers of transformers before 5, names of attention before diffusers 0.18."""
    expected = weights(folder)
    text = {f"text_model.{name}": tensor for name, tensor in load_file(folder / TEXT_FILE).items()}
    save_file({**text, "text_model.embeddings.position_ids": torch.arange(77).view(1, -1)}, folder / TEXT_FILE)
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in load_file(file).items():
        for new, was in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        renamed[name] = tensor
    assert any("proj_attn" in name for name in renamed)
    save_file(renamed, file)
    assert same(weights(folder), expected)
    assert outline(str(folder))[1].parameters == resolve(str(folder)).parameters


def test_half_precision_and_variants_and_pickles(folder: Path) -> None:
    for file in (UNET_FILE, TEXT_FILE):
        path = folder / file
        save_file({n: t.half() for n, t in load_file(path).items()}, path.with_suffix(".fp16.safetensors"))
        path.unlink()
    program = resolve(str(folder))
    assert any("tensors of float16 became float32" in note for note in program.notes)
    half = weights(folder)
    for file, pickled in ((UNET_FILE, "diffusion_pytorch_model.bin"), (TEXT_FILE, "pytorch_model.bin")):
        path = (folder / file).with_suffix(".fp16.safetensors")
        torch.save({n: t.float() for n, t in load_file(path).items()}, path.parent / pickled)
        path.unlink()
    assert same(weights(folder), half)
    assert outline(str(folder))[1].parameters is None


def test_shards(folder: Path, tmp_path: Path) -> None:
    expected = weights(folder)
    write_stable_diffusion(tmp_path / "sharded", save={"max_shard_size": "2MB"})
    assert len(list((tmp_path / "sharded" / "unet").glob("*-of-*.safetensors"))) > 1
    assert same(weights(tmp_path / "sharded"), expected)
    for component in ("unet",):  # as a variant is written
        index = tmp_path / "sharded" / component / "diffusion_pytorch_model.safetensors.index.json"
        index.rename(index.with_name("diffusion_pytorch_model.safetensors.index.fp16.json"))
    assert same(weights(tmp_path / "sharded"), expected)


def test_a_tokenizer_json_gives_the_same(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    expected = read_text_to_image(folder).tokenizers["text_encoder"]
    transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer").save_pretrained(folder / "new")
    shutil.rmtree(folder / "tokenizer")
    (folder / "new").rename(folder / "tokenizer")
    assert not (folder / "tokenizer" / "merges.txt").exists()
    found = read_text_to_image(folder).tokenizers["text_encoder"]
    assert (found.pad_token_id, found.prompt_tokens) == (expected.pad_token_id, expected.prompt_tokens)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusion3Pipeline"},
            "_class_name is 'StableDiffusion3Pipeline'",
        ),
        ("model_index.json", {"_class_name": None}, "_class_name is None, which is not supported\nsupported: DDPM"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "'text_encoder_2' is not known"),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "names no text_encoder_2"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderDC"]}, "vae is .*'AutoencoderDC'"),
        (
            "model_index.json",
            {"vae": ["diffusers", "AutoencoderTiny"]},
            "vae: .*'AutoencoderTiny'.* of 'AutoencoderKL'",
        ),
        ("model_index.json", {"vae": None}, "names no vae"),
        ("model_index.json", {"unet": ["diffusers", "UNet2DModel"]}, "unet is .*'UNet2DModel'"),
        ("model_index.json", {"scheduler": ["diffusers", "DDIMScheduler"]}, "do not belong together"),
        ("unet/config.json", {"_class_name": "UNet2DModel"}, "do not belong together"),
        (
            "unet/config.json",
            {"cross_attention_dim": 32},
            "cross_attention_dim is 32, the text encoder's hidden_size 24",
        ),
        ("unet/config.json", {"in_channels": 5}, "in_channels is 5, the VAE's latent_channels 4"),
        ("unet/config.json", {"out_channels": 8}, "out_channels is 8, the VAE's latent_channels 4"),
        ("unet/config.json", {"num_class_embeds": 7}, "num_class_embeds 7, a pipeline from text to pictures"),
        ("unet/config.json", {"dual_cross_attention": True}, "unet: config.json: dual_cross_attention is True"),
        ("vae/config.json", {"latent_channels": 16}, "the VAE's latent_channels 16"),
        ("vae/config.json", {"out_channels": 4}, "the VAE takes 3 channels and gives 4"),
        ("vae/config.json", {"scaling_factor": -1}, "scaling_factor is -1"),
        ("text_encoder/config.json", {"vocab_size": 100}, "has 546 tokens, the text encoder's vocab_size is 100"),
        ("text_encoder/config.json", {"max_position_embeddings": 20}, "model_max_length is 77, .* 20"),
        ("text_encoder/config.json", {"architectures": ["CLIPTextModelWithProjection"]}, "do not belong together"),
        ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 2}, "model_max_length is 2"),
        ("tokenizer/vocab.json", {"<|startoftext|>": None}, r"the vocabulary lacks '<\|startoftext\|>'"),
    ],
)
def test_components_that_do_not_belong_together(file: str, changes: dict[str, Any], message: str, folder: Path) -> None:
    edit(folder / file, **changes)
    for look in (outline, resolve):
        with pytest.raises(AigcError, match=message):
            look(str(folder))


def test_a_scheduler_whose_variance_is_learned(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler(**LEADING, clip_sample=False, variance_type="learned_range")
    write_stable_diffusion(tmp_path / "sd", scheduler=scheduler)
    with pytest.raises(AigcError, match="variance_type is 'learned_range', the UNet gives no variance"):
        resolve(str(tmp_path / "sd"))


@pytest.mark.parametrize("file", ["model_index.json", "vae/config.json", "text_encoder/config.json"])
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": NaN}', b"\xff"])
def test_damaged_json(file: str, content: bytes, folder: Path) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=Path(file).name):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("vae/config.json", r"config\.json' is not there"),
        ("vae/diffusion_pytorch_model.safetensors", "has no weights"),
        (TEXT_FILE, "text_encoder' has no weights"),
        ("tokenizer/merges.txt", "holds no tokenizer"),
    ],
)
def test_a_missing_file(gone: str, message: str, folder: Path) -> None:
    (folder / gone).unlink()
    with pytest.raises(CheckpointError, match=message):
        resolve(str(folder))


def test_what_may_be_of_another_model_is_told(folder: Path) -> None:
    """Of the same sizes, so that nothing else gives it away: only the numbers that were published do."""

    def told() -> list[str]:
        return [note for note in outline(str(folder))[1].notes if "does not belong" in note or "misread" in note]

    assert told() == []
    edit(folder / "vae" / "config.json", scaling_factor=0.13025)
    assert [note.partition(":")[0] for note in told()] == [
        "the VAE's scaling_factor is 0.13025, that of Stable Diffusion XL"
    ]
    edit(folder / "vae" / "config.json", scaling_factor=0.5)  # nobody's
    tokens = [*list(clip_vocabulary())[:512], BEGIN, END]  # bytes, and no merge of them
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    assert [note.partition(":")[0] for note in told()] == [
        "the tokenizer has 514 of the 546 tokens that the text encoder knows"
    ]


def test_a_tokenizer_with_added_tokens(folder: Path) -> None:
    """As textual inversion adds them: they must be in the text encoder's embedding, too."""
    size = len(clip_vocabulary())
    (folder / "tokenizer" / "added_tokens.json").write_text(json.dumps({"<cat-toy>": size}))
    with pytest.raises(AigcError, match=f"has {size + 1} tokens, the text encoder's vocab_size is {size}"):
        resolve(str(folder))


def test_other_autoencoders_of_the_same_latents(folder: Path) -> None:
    make_vae(layers_per_block=1, scaling_factor=0.5).save_pretrained(folder / "vae")
    assert resolve(str(folder)).settings.scaling_factor == 0.5
    assert SD15_UNET["in_channels"] == 4
    write_tokenizer(folder / "tokenizer", model_max_length=40)
    assert resolve(str(folder)).parts["unet"].interface.inputs[2].shape == ("batch", 40, 24)
