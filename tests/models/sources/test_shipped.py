"""The models by name: the shipped checkpoints, the user's own, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aigc_export.workloads.evaluate import program_evaluation
from aigc_models.data.kept_data import data_files
from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.stylegan2.config import StyleGAN2Config
from aigc_models.families.stylegan2.generator import StyleGAN2
from aigc_models.families.unet import UNet
from aigc_models.families.unet_config import UNetConfig
from aigc_models.programs import gan_program
from aigc_models.sources import outline, resolve
from aigc_models.sources.shipped import MODELS, load_shipped
from aigc_models.torch_session import TorchSession, open_torch
from aigc_models.weights import before_memory
from aigc_models.weights.checkpoint import load_checkpoint, save_checkpoint, shipped_checkpoint
from aigc_runtime.errors import AigcError, CheckpointError, ConfigError, UnknownNameError
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.jsonable import to_json
from aigc_runtime.pipelines import KINDS
from aigc_runtime.pipelines.gan import GanPipeline

GAN = GeneratorConfig(image_size=8, latent_size=4, num_classes=3, base_channels=4)
LM = LMConfig(vocab_size=256, context_length=12, d_model=16, n_layers=1, n_heads=2, d_ff=24)
UNET = UNetConfig(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(4, 8),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    norm_num_groups=2,
)
SCHEDULE = to_json(ScheduleConfig(num_train_timesteps=77))


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "mine", Generator(GAN), {"family": "gan", "model": GAN.to_dict()})
    return tmp_path / "mine"


def rewrite(folder: Path, change: Any) -> None:
    record = json.loads((folder / "config.json").read_text())
    change(record)
    (folder / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_comes_with_its_checkpoint(name: str) -> None:
    loaded = load_shipped(name)
    weights = (shipped_checkpoint(name) / "model.safetensors").read_bytes()
    assert loaded.name == name
    assert loaded.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert loaded.kind == MODELS[name].kind
    assert isinstance(loaded.settings, KINDS[MODELS[name].kind].settings)
    found = load_checkpoint(shipped_checkpoint(name))
    assert loaded.model_config is not None
    assert found.config["model"].items() <= loaded.model_config.items()  # what is missing there is at its default
    assert loaded.checkpoint is not None
    assert not any(isinstance(held, torch.Tensor) for held in vars(loaded.checkpoint.tensors).values())
    assert not any(module.training for part in loaded.parts.values() for module in part.module.modules())
    assert program_evaluation(loaded).has_task_metric
    whole = found.tensors if len(loaded.parts) == 1 else {}  # what is taken apart has other tensors
    for key, tensor in whole.items():
        expected = tensor.float() if tensor.dtype == torch.float16 else tensor
        assert torch.equal(loaded.part.module.state_dict()[f"model.{key}"], expected), key


def test_the_users_own_weights_are_run(gan: Path) -> None:
    torch.manual_seed(0)
    session = TorchSession(gan_program(Generator(GAN)).part)
    feeds = {"latents": np.ones((2, 4), np.float32), "class_labels": np.array([0, 2])}
    loaded = TorchSession(load_shipped("gan", checkpoint=gan).part)
    np.testing.assert_array_equal(loaded.run(feeds)["image"], session.run(feeds)["image"])
    found = load_shipped("gan", checkpoint=str(gan)).checkpoint
    assert found is not None
    assert found.path == gan / "model.safetensors"


def test_options_reach_the_export(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "lm", TransformerLM(LM), {"family": "lm", "model": LM.to_dict()})
    kinds = {
        given: load_shipped("lm", checkpoint=tmp_path / "lm", options={"cache": given}).part.interface.state[0].kind
        for given in (None, "growing", "buffer")
    }
    assert kinds == {None: "growing", "growing": "growing", "buffer": "buffer"}
    with pytest.raises(UnknownNameError, match="unknown cache 'ring'"):
        load_shipped("lm", checkpoint=tmp_path / "lm", options={"cache": "ring"})
    record = {"family": "unet", "model": UNET.to_dict(), "schedule": SCHEDULE}
    save_checkpoint(tmp_path / "unet", UNet(UNET), record)
    fixed = load_shipped("unet", checkpoint=tmp_path / "unet")
    assert fixed.part.interface.inputs[0].shape == ("batch", 1, 8, 8)
    assert fixed.settings.schedule.num_train_timesteps == 77
    dynamic = load_shipped("unet", checkpoint=tmp_path / "unet", options={"dynamic_size": True})
    assert dynamic.part.interface.inputs[0].shape == ("batch", 1, "height", "width")


STYLES = StyleGAN2Config(z_size=4, w_size=5, num_classes=2, mapping_layers=1, channels=(4, 3), image_channels=1)
CLASSED = {"family": "stylegan2", "model": STYLES.to_dict(), "class_names": ["cat", "dog"]}


@torch.no_grad()
def test_a_trained_stylegan2_comes_in_by_its_folder_with_the_names_of_its_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = StyleGAN2(STYLES)
    save_checkpoint(tmp_path / "faces", model, CLASSED)
    program = resolve(str(tmp_path / "faces"))
    assert (program.name, program.kind, program.settings.class_names) == ("stylegan2", "gan", ("cat", "dog"))
    pipeline = GanPipeline(open_torch(program), program.settings, program.engines)
    latents = torch.randn(2, 4, generator=torch.Generator().manual_seed(3))
    expected = model(latents, torch.tensor([1, 0])).numpy()
    np.testing.assert_allclose(pipeline.generate([1, 0], seed=3), expected, atol=1e-5)
    source, known = outline(str(tmp_path / "faces"))
    assert (source, known.family, known.parameters) == (
        "folder",
        "stylegan2",
        sum(p.numel() for p in model.parameters()),
    )
    random = resolve(str(tmp_path / "faces"), options={"noise": "random"})
    assert random.settings.noise_sides == (4, 8, 8)


def test_a_name_beside_the_familys_brings_its_own_weights_or_the_users_of_that_family(tmp_path: Path) -> None:
    shipped = load_shipped("emoji")
    names = ("animals-nature", "flags", "food-drink", "people-body", "smileys-emotion", "travel-places")
    assert (shipped.settings.sample_shape, shipped.settings.class_names) == ((3, 32, 32), names)
    assert shipped.notes == ()  # stored in 16 bits, which is as it should be
    assert {t.dtype for t in shipped.part.module.state_dict().values()} == {torch.float32}
    record = {"family": "unet", "model": UNET.to_dict(), "schedule": SCHEDULE}
    save_checkpoint(tmp_path / "mine", UNet(UNET), record)
    mine = load_shipped("emoji", checkpoint=tmp_path / "mine")
    assert (mine.name, mine.settings.sample_shape) == ("emoji", (1, 8, 8))
    save_checkpoint(tmp_path / "other", StyleGAN2(STYLES), CLASSED)
    with pytest.raises(CheckpointError, match="of family 'stylegan2', expected 'unet'"):
        load_shipped("emoji", checkpoint=tmp_path / "other")


def test_what_is_wrong_with_a_trained_stylegan2(tmp_path: Path) -> None:
    for name, record, options, message in (
        ("a", CLASSED, {"noise": "rand"}, "unknown noise 'rand'"),
        ("b", CLASSED, {"cache": "buffer"}, "unknown export option of 'stylegan2' 'cache'"),
        ("c", {**CLASSED, "class_names": ["cat"]}, {}, "class_names has 1 entries, num_classes is 2"),
        ("d", {**CLASSED, "schedule": {}}, {}, "config.json of family 'stylegan2' has no field 'schedule'"),
        ("e", {**CLASSED, "model": {**STYLES.to_dict(), "z_size": 3}}, {}, "has shape"),
    ):
        save_checkpoint(tmp_path / name, StyleGAN2(STYLES), record)
        with pytest.raises(AigcError, match=message):
            resolve(str(tmp_path / name), options=options)
    with pytest.raises(UnknownNameError, match="unknown model 'stylegan2'"):
        load_shipped("stylegan2")  # it comes without weights


def test_unknown_models_and_options_give_the_valid_names_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        load_shipped("unett")
    assert str(caught.value) == "unknown model 'unett'\nvalid: emoji, fashion, gan, lm, unet. Did you mean 'unet'?"
    found = r"unknown export option of 'lm' 'kache'\nvalid: cache, separate_prefill\. Did you mean"
    with pytest.raises(UnknownNameError, match=found):
        load_shipped("lm", options={"kache": "buffer"})
    with pytest.raises(UnknownNameError, match=r"unknown export option of 'gan' 'cache'\nvalid: \(none\)"):
        load_shipped("gan", options={"cache": "buffer"})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"family": "lm"}, CheckpointError, "config.json is of family 'lm', expected 'gan'"),
        ({"family": None}, CheckpointError, "config.json is of family None, expected 'gan'"),
        ({"model": None}, CheckpointError, "config.json holds NoneType as 'model', expected the model's configuration"),
        ({"model": {"image_size": 9}}, ConfigError, "GeneratorConfig.image_size is 9"),
        ({"model": {"latents": 9}}, ConfigError, "GeneratorConfig has no field 'latents'"),
        (
            {"model": dataclasses.replace(GAN, latent_size=5).to_dict()},
            CheckpointError,
            "'project.weight' has shape [128, 36], expected [128, 37]",
        ),
    ],
)
def test_a_config_that_is_not_the_checkpoints(
    gan: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    rewrite(gan, lambda record: record.update(change))
    with pytest.raises(error) as caught:
        load_shipped("gan", checkpoint=gan)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (None, "config.json: schedule is null, expected an object"),
        ({**SCHEDULE, "beta_schedule": "cosine"}, "config.json: schedule.beta_schedule is 'cosine'"),
        ({**SCHEDULE, "num_train_timesteps": "77"}, "config.json: schedule.num_train_timesteps is a string"),
    ],
)
def test_a_unet_without_a_right_schedule(tmp_path: Path, schedule: Any, message: str) -> None:
    record = {"family": "unet", "model": UNET.to_dict(), "schedule": schedule}
    save_checkpoint(tmp_path / "unet", UNet(UNET), record)
    with pytest.raises(ConfigError) as caught:
        load_shipped("unet", checkpoint=tmp_path / "unet")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("names", "own", "data"),
    [
        (list("0123456789"), False, "scikit-learn's digits"),
        (list("0123456789"), True, ""),  # of the user's own pictures
        (list("abcdefghij"), False, ""),
        (None, False, ""),
    ],
)
def test_what_nobody_says_to_be_digits_is_not_evaluated_as_digits(
    names: list[str] | None, own: bool, data: str, tmp_path: Path
) -> None:
    config = GeneratorConfig(image_size=16, latent_size=4, base_channels=4)
    record: dict[str, Any] = {"family": "gan", "model": config.to_dict(), "class_names": names}
    kept = data_files("photos") if own else {}
    save_checkpoint(tmp_path / "mine", Generator(config), record, extra_files=kept)
    loaded = load_shipped("gan", checkpoint=tmp_path / "mine")
    assert (program_evaluation(loaded).data, program_evaluation(loaded).has_task_metric) == (data, bool(data))
    assert loaded.settings.class_names == (None if names is None else tuple(names))
    with pytest.raises(ConfigError, match="cannot evaluate a model of images"):
        program_evaluation(loaded, tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"] * 10, "config.json: class_names holds 'a' twice"),
        (5, "config.json: class_names is not a list of names"),
        ("0123456789", "config.json: class_names is not a list of names"),
        ({}, "config.json: class_names is not a list of names"),
        (["0", 1], "config.json: class_names is not a list of names"),
        (["0", "1"], "config.json: class_names has 2 entries, num_classes is 10"),
    ],
)
def test_names_that_do_not_fit_the_classes(tmp_path: Path, names: Any, message: str) -> None:
    config = GeneratorConfig(image_size=16, latent_size=4, base_channels=4)
    record = {"family": "gan", "model": config.to_dict(), "class_names": names}
    save_checkpoint(tmp_path / "mine", Generator(config), record)
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        load_shipped("gan", checkpoint=tmp_path / "mine")
    assert message in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_shipped("gan", checkpoint=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"latent_size": 2**40}, ConfigError, r"\.latent_size is 1099511627776\nmust be at most 16,777,216"),
        ({"image_channels": 2**24 + 1}, ConfigError, r"image_channels is 16777217\nmust be at most"),
        (
            {"base_channels": 2**20},
            CheckpointError,
            r"'project\.weight' has shape \[\d+, 36\], expected \[\d{6,}, ",
        ),
        ({"image_size": 2**20}, CheckpointError, r"lacks tensor 'blocks\.1"),
    ],
)
def test_sizes_that_the_file_does_not_hold_take_no_memory(
    gan: Path, change: dict[str, int], error: type[Exception], message: str
) -> None:
    """The weights of each would take tens of GiB and more."""
    rewrite(gan, lambda record: record["model"].update(change))
    with pytest.raises(error, match=message):
        load_shipped("gan", checkpoint=gan)


def test_depths_and_tables_beyond_all_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, TransformerLM(LM), {"family": "lm", "model": LM.to_dict()})
    rewrite(tmp_path, lambda record: record["model"].update(n_layers=10**6))
    with pytest.raises(ConfigError, match=r"LMConfig\.n_layers is 1000000\nmust be at most 1,024"):
        load_shipped("lm", checkpoint=tmp_path)
    rewrite(tmp_path, lambda record: record["model"].update(n_layers=1, position="sinusoidal", context_length=2**24))
    monkeypatch.setattr(before_memory, "available_memory", lambda: 2**29)
    with pytest.raises(ConfigError, match=r"needs \d\.\d GiB of memory for its tables, 0\.5 GiB are free\nis context"):
        load_shipped("lm", checkpoint=tmp_path)
    rewrite(tmp_path, lambda record: record["model"].update(context_length=LM.context_length))
    monkeypatch.setattr(before_memory, "available_memory", lambda: 4 * LM.context_length * LM.d_model)
    with pytest.raises(ConfigError, match=r"GiB of memory for its weights, 0\.0 GiB are free\ntake a machine"):
        load_shipped("lm", checkpoint=tmp_path)
