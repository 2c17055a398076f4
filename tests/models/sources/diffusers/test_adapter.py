"""Adapters of Stable Diffusion against diffusers: load_lora_weights and fuse_lora on the same file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from aigc_models.sources import resolve
from aigc_models.sources.diffusers.adapter import parse_name
from aigc_runtime.errors import AdapterError, AigcError, CheckpointError

from .small_sd import diffusers, write_stable_diffusion
from .small_xl import write_stable_diffusion_xl

pytest.importorskip("peft")

TOLERANCE = 1e-6  # float32, relative to the largest weight
RANK = 3
UNET = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
)
CONVOLUTIONS = ("down_blocks.0.resnets.1.conv1", "mid_block.attentions.0.proj_in")
TEXT = ("encoder.layers.1.self_attn.v_proj", "encoder.layers.0.mlp.fc1")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "sd"
    write_stable_diffusion(folder)
    return folder


def weights_of(folder: Path, **options: Any) -> dict[str, dict[str, Tensor]]:
    parts = resolve(str(folder), options=options).parts
    return {name: parts[name].module.model.state_dict() for name in ("unet", "text_encoder")}  # type: ignore[union-attr]


def matrices(
    folder: Path, modules: dict[str, tuple[str, ...]], *, rank: int = RANK
) -> dict[str, tuple[Tensor, Tensor]]:
    """(down, up) for modules, under `unet.` or `text_encoder.`."""
    torch.manual_seed(5)
    found = {}
    for component, state in weights_of(folder).items():
        for module in modules.get(component, ()):
            shape = state[f"{module}.weight"].shape
            tail = [1] * (len(shape) - 2)
            found[f"{component}.{module}"] = (
                0.1 * torch.randn(rank, *shape[1:]),
                0.1 * torch.randn(shape[0], rank, *tail),
            )
    return found


def peft_names(name: str, part: str) -> str:
    component, _, module = name.partition(".")
    inner = f"text_model.{module}" if component == "text_encoder" else module
    return f"{component}.{inner}.lora_{'A' if part == 'down' else 'B'}.weight"


def old_names(name: str, part: str) -> str:
    component, _, module = name.partition(".")
    kind = "lora_linear_layer" if component == "text_encoder" else "lora"
    inner = f"text_model.{module}" if component == "text_encoder" else module
    return f"{component}.{inner}.{kind}.{part}.weight"


def kohya_names(name: str, part: str) -> str:
    component, _, module = name.partition(".")
    prefix = "lora_te_text_model_" if component == "text_encoder" else "lora_unet_"
    return f"{prefix}{module.replace('.', '_')}.lora_{part}.weight"


def write(
    file: Path,
    pairs: dict[str, tuple[Tensor, Tensor]],
    names: Callable[[str, str], str],
    *,
    alpha: float | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        tensors[names(name, "down")], tensors[names(name, "up")] = down, up
        if alpha is not None:
            tensors[names(name, "down").rpartition(".lora_")[0] + ".alpha"] = torch.tensor(alpha)
    save_file(tensors, file, metadata=metadata)
    return file


def fused(folder: Path, files: dict[Path, float]) -> dict[str, dict[str, Tensor]]:
    """What diffusers makes of the pipeline with adapters, each with its scale."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for i, (file, scale) in enumerate(files.items()):
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"a{i}")
        pipeline.fuse_lora(lora_scale=scale, adapter_names=[f"a{i}"])
        pipeline.unload_lora_weights()
    return {"unet": pipeline.unet.state_dict(), "text_encoder": pipeline.text_encoder.state_dict()}


def far(found: dict[str, dict[str, Tensor]], expected: dict[str, dict[str, Tensor]]) -> list[str]:
    """Names of the weights that differ."""
    return [
        name
        for component, weights in found.items()
        for name, weight in weights.items()
        if (weight - expected[component][name]).abs().max() > TOLERANCE * expected[component][name].abs().max()
    ]


CASES: dict[str, tuple[Callable[[str, str], str], dict[str, tuple[str, ...]], float | None]] = {
    "diffusers": (peft_names, {"unet": UNET + CONVOLUTIONS, "text_encoder": TEXT}, None),
    "diffusers before 0.21": (old_names, {"unet": UNET, "text_encoder": TEXT}, None),
    # Of the attention of a text encoder, diffusers 0.42 does not find kohya's names in transformers 5: see below.
    "kohya with an alpha": (kohya_names, {"unet": UNET, "text_encoder": TEXT[1:]}, 2.0),
    "kohya of the UNet, with convolutions": (kohya_names, {"unet": UNET + CONVOLUTIONS}, 1.0),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name if name == "diffusers" else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_an_adapter_is_merged_as_diffusers_fuses_it(name: str, original: Path, tmp_path: Path) -> None:
    names, modules, alpha = CASES[name]
    file = write(tmp_path / "lora.safetensors", matrices(original, modules), names, alpha=alpha)
    expected = fused(original, {file: 0.7})
    assert far(weights_of(original, lora=(f"{file}:0.7",)), expected) == []
    changed = {f"{module}.weight" for wanted in modules.values() for module in wanted}
    assert set(far(weights_of(original), expected)) == changed


@pytest.mark.slow
def test_an_adapter_of_kohya_for_the_attention_of_the_text_encoder(original: Path, tmp_path: Path) -> None:
    """Against the formula: W + s alpha / r B A."""
    pairs = matrices(original, {"text_encoder": TEXT})
    file = write(tmp_path / "a.safetensors", pairs, kohya_names, alpha=2.0)
    expected = {component: dict(state) for component, state in weights_of(original).items()}
    for name, (down, up) in pairs.items():
        component, _, module = name.partition(".")
        expected[component][f"{module}.weight"] = expected[component][f"{module}.weight"] + 0.7 * 2 / RANK * up @ down
    assert far(weights_of(original, lora=(f"{file}:0.7",)), expected) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_several_adapters_add_up(original: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", matrices(original, {"unet": UNET}), peft_names)
    second = write(tmp_path / "b.safetensors", matrices(original, {"unet": UNET[:1]}, rank=2), kohya_names, alpha=3.0)
    expected = fused(original, {first: 1.0, second: -0.5})
    program = resolve(str(original), options={"lora": (str(first), f"{second}:-0.5")})
    assert far({"unet": program.parts["unet"].module.model.state_dict()}, expected) == []  # type: ignore[union-attr]
    assert f"merged the adapter {str(second)!r} into 1 modules, times -0.5" in program.notes
    assert program.checkpoint is not None
    assert [text for text, _ in program.checkpoint.adapters] == [str(first), f"{second}:-0.5"]
    assert program.weights_sha256 != resolve(str(original)).weights_sha256


def test_the_scale_that_diffusers_keeps_beside_the_tensors(original: Path, tmp_path: Path) -> None:
    pairs = matrices(original, {"unet": UNET})
    said = {"unet.r": RANK, "unet.lora_alpha": 6, "unet.use_dora": False, "unet.alpha_pattern": {}}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(said)}
    file = write(tmp_path / "a.safetensors", pairs, peft_names, metadata=metadata)
    plain = write(tmp_path / "b.safetensors", pairs, peft_names)
    assert far(weights_of(original, lora=(str(file),)), weights_of(original, lora=(f"{plain}:2",))) == []
    metadata["lora_adapter_metadata"] = json.dumps({**said, "unet.use_dora": True})
    write(file, pairs, peft_names, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"its metadata say unet\.use_dora True, which is not supported"):
        resolve(str(original), options={"lora": (str(file),)})


def test_a_folder_as_diffusers_saves_it(original: Path, tmp_path: Path) -> None:
    write(tmp_path / "pytorch_lora_weights.safetensors", matrices(original, {"unet": UNET}), peft_names)
    changed = far(weights_of(original, lora=(str(tmp_path),)), weights_of(original))
    assert set(changed) == {f"{module}.weight" for module in UNET}


def test_names_of_attention_processors() -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight"
    assert parse_name(name) == ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0", "up")
    assert parse_name("unet.conv_in.weight") is None
    assert parse_name("unet.conv_in.lora_A.bias") is None


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_conv_in.hada_w1_a": (2, 2)}, "tensors that are not supported: 'lora_unet_conv_in.hada_w1_a'"),
        ({"unet.conv_in.lora_A.weight": (2, 4, 3, 3)}, "halves of pairs: 'unet.conv_in.lora_A.weight'"),
        ({"lora_te2_text_model_a.lora_down.weight": (2, 4)}, "halves of pairs: 'lora_te2_text_model_a"),
        (
            {"lora_unet_mid_block_x.lora_down.weight": (2, 4), "lora_unet_mid_block_x.lora_up.weight": (4, 2)},
            "changes 'mid_block_x', which the unet does not have",
        ),
        (
            {"unet.conv_in.lora_A.weight": (2, 5, 3, 3), "unet.conv_in.lora_B.weight": (16, 2, 1, 1)},
            r"changes 'conv_in' of the unet as one of \[16, 5, 3, 3\], the model's is of \[16, 4, 3, 3\]",
        ),
        (
            {"unet.conv_in.lora_A.weight": (2, 4, 3, 3), "unet.conv_in.lora_B.weight": (16, 3, 1, 1)},
            r"are of \[2, 4, 3, 3\] and \[16, 3, 1, 1\]",
        ),
    ],
)
def test_adapters_that_are_refused(
    tensors: dict[str, tuple[int, ...]], message: str, original: Path, tmp_path: Path
) -> None:
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message):
        resolve(str(original), options={"lora": (str(tmp_path / "a.safetensors"),)})


def test_an_adapter_of_another_base_has_an_exit_code_of_its_own(original: Path, tmp_path: Path) -> None:
    """As the one of Stable Diffusion 2 does for 1.5: the same names, other widths; a part of it is nothing."""
    others = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 5, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(16, 2, 1, 1),
    }
    save_file(others, tmp_path / "a.safetensors")
    for partial in ({}, {"lora_partial": True}):
        with pytest.raises(AdapterError, match=r"as one of .* the model's is of") as caught:
            resolve(str(original), options={"lora": (str(tmp_path / "a.safetensors"),), **partial})
        assert (caught.value.exit_code, caught.value.hint) == (3, "it is an adapter of another model")


PARTLY: dict[str, tuple[int, ...]] = {
    "unet.conv_in.lora_A.weight": (2, 4, 3, 3),
    "unet.conv_in.lora_B.weight": (16, 2, 1, 1),
}
OTHERS: dict[str, dict[str, tuple[int, ...]]] = {
    "lora_unet_conv_in.hada_w1_a": {"lora_unet_conv_in.hada_w1_a": (2, 2)},
    "mid_block.x": {"unet.mid_block.x.lora_A.weight": (2, 4), "unet.mid_block.x.lora_B.weight": (4, 2)},
    "a_b": {"lora_te2_text_model_a_b.lora_down.weight": (2, 4), "lora_te2_text_model_a_b.lora_up.weight": (4, 2)},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "mid_block.x" else name for name in OTHERS]
)
def test_a_part_of_an_adapter_is_enough_where_that_is_asked_for(name: str, original: Path, tmp_path: Path) -> None:
    tensors = {key: 0.1 * torch.ones(shape) for key, shape in {**PARTLY, **OTHERS[name]}.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    save_file({key: tensors[key] for key in PARTLY}, tmp_path / "b.safetensors")
    options: dict[str, Any] = {"lora": (str(tmp_path / "a.safetensors"),)}
    with pytest.raises(AdapterError, match="--lora-partial leaves out what is not known") as caught:
        resolve(str(original), options=options)
    assert caught.value.exit_code == 3
    found = weights_of(original, **options, lora_partial=True)
    assert far(found, weights_of(original, lora=(str(tmp_path / "b.safetensors"),))) == []
    assert far(found, weights_of(original)) == ["conv_in.weight"]
    notes = resolve(str(original), options={**options, "lora_partial": True}).notes
    assert f"not merged of {options['lora'][0]!r}: {name!r}" in notes


def test_a_part_that_is_nothing(original: Path, tmp_path: Path) -> None:
    for name, others in OTHERS.items():
        save_file({key: torch.ones(shape) for key, shape in others.items()}, tmp_path / "a.safetensors")
        options = {"lora": (str(tmp_path / "a.safetensors"),), "lora_partial": True}
        with pytest.raises(CheckpointError, match=f"(changes nothing that the model has|no tensors).*{name}"):
            resolve(str(original), options=options)


@pytest.mark.parametrize(
    "tensors",
    [
        {"unet.conv_in.lora_A.weight": (2, 4, 3, 3)},
        {**PARTLY, "unet.conv_in.lora_B.weight": (17, 2, 1, 1)},
    ],
)
def test_what_a_part_does_not_excuse(tensors: dict[str, tuple[int, ...]], original: Path, tmp_path: Path) -> None:
    """Half a pair, and matrices of another shape."""
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, tmp_path / "a.safetensors")
    options = {"lora": (str(tmp_path / "a.safetensors"),), "lora_partial": True}
    with pytest.raises(CheckpointError, match=r"conv_in"):
        resolve(str(original), options=options)


XL_UNET_MODULES = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "up_blocks.0.attentions.2.transformer_blocks.1.attn2.to_out.0",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
)


def stability_names(name: str, part: str) -> str:
    """As kohya's scripts name the UNet of XL."""
    theirs = {
        XL_UNET_MODULES[0]: "input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        XL_UNET_MODULES[1]: "output_blocks_2_1_transformer_blocks_1_attn2_to_out_0",
        XL_UNET_MODULES[2]: "middle_block_1_transformer_blocks_0_ff_net_0_proj",
    }
    component, _, module = name.partition(".")
    if component == "unet":
        return f"lora_unet_{theirs[module]}.lora_{part}.weight"
    return f"lora_te2_text_model_{module.replace('.', '_')}.lora_{part}.weight"


@pytest.mark.filterwarnings("ignore")
def test_adapters_of_xl(tmp_path: Path) -> None:
    folder = tmp_path / "xl"
    write_stable_diffusion_xl(folder)

    def state(**options: Any) -> dict[str, dict[str, Tensor]]:
        parts = resolve(str(folder), options=options).parts
        return {n: parts[n].module.model.state_dict() for n in ("unet", "text_encoder_2")}  # type: ignore[union-attr]

    plain, pairs = state(), {}
    torch.manual_seed(5)
    for component, modules in (("unet", XL_UNET_MODULES), ("text_encoder_2", TEXT[1:])):
        for module in modules:
            outputs, inputs = plain[component][f"{module}.weight"].shape
            pairs[f"{component}.{module}"] = 0.1 * torch.randn(RANK, inputs), 0.1 * torch.randn(outputs, RANK)
    file = write(tmp_path / "a.safetensors", pairs, stability_names, alpha=2.0)
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path, weight_name="a.safetensors", adapter_name="a")
    pipeline.fuse_lora(lora_scale=0.7, adapter_names=["a"])
    pipeline.unload_lora_weights()
    second = {k.removeprefix("text_model."): t for k, t in pipeline.text_encoder_2.state_dict().items()}
    expected = {"unet": pipeline.unet.state_dict(), "text_encoder_2": second}
    assert far(state(lora=(f"{file}:0.7",)), expected) == []
    assert set(far(plain, expected)) == {f"{name.partition('.')[2]}.weight" for name in pairs}


def test_files_that_are_refused(original: Path, tmp_path: Path) -> None:
    for lora, message in (
        (str(tmp_path / "none.safetensors"), "no adapter at"),
        (str(tmp_path), "no adapter at .*pytorch_lora_weights"),
        (f"{tmp_path}:x", "the folder of an adapter, or with a number"),
    ):
        with pytest.raises(AigcError, match=message):
            resolve(str(original), options={"lora": (lora,)})
    pairs = matrices(original, {"unet": UNET[:1]})
    file = write(tmp_path / "a.safetensors", {n: (d * float("nan"), u) for n, (d, u) in pairs.items()}, peft_names)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        resolve(str(original), options={"lora": (str(file),)})


def test_components_alone_take_no_adapters(original: Path, tmp_path: Path) -> None:
    shutil.copytree(original / "vae", tmp_path / "vae")
    with pytest.raises(AigcError, match=r"export option of .* 'lora'"):
        resolve(str(tmp_path / "vae"), options={"lora": ("a",)})
