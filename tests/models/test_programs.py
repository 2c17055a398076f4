"""How each family is exported: the flat module gives what the model gives, under the names that the runtime expects."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc_models.families.gan import Generator, GeneratorConfig
from aigc_models.families.lm import TransformerLM
from aigc_models.families.lm_config import LMConfig
from aigc_models.families.unet import UNet, UNetConfig
from aigc_models.program import Program, example_feeds
from aigc_models.programs import gan_program, lm_program, unet_program
from aigc_models.text_assets import NO_TEXT, TextAssets
from aigc_models.torch_session import TorchSession, open_torch
from aigc_runtime.core.tensors import FeedChecker
from aigc_runtime.errors import BundleError, ConfigError, InputError, UnknownNameError
from aigc_runtime.generation.chat import ChatInfo
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.generation.tokenizers import TokenizerInfo
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.settings import DiffusionSettings
from aigc_runtime.pipelines.text import TextPipeline

SAME = 1e-5  # float32 of a few layers, the same operators in the same order

LM = LMConfig(vocab_size=256, context_length=24, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24)
UNET = UNetConfig(
    sample_size=8,
    in_channels=2,
    out_channels=2,
    block_out_channels=(4, 8),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=4,
    norm_num_groups=2,
)
CONTEXT: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": 2,
    "cross_attention_dim": 6,
}
SCHEDULE = ScheduleConfig(num_train_timesteps=400)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def language_model() -> TransformerLM:
    model = TransformerLM(LM)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def sizes(program: Program, **given: int) -> dict[str, int]:
    return {d.name: given.get(d.name, max(d.min, 2)) for d in program.part.interface.dims}


@torch.no_grad()
def call(program: Program, feeds: dict[str, np.ndarray]) -> dict[str, Tensor]:
    assert FeedChecker(program.part.interface.graph_inputs, program.part.interface.dims_by_name).check(feeds)
    results = program.part.module(*(torch.from_numpy(feeds[t.name]) for t in program.part.interface.graph_inputs))
    assert isinstance(results, tuple)
    return dict(zip(program.part.interface.graph_outputs, results, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("cache", ["growing", "buffer"])
def test_the_flat_language_model_is_the_language_model(cache: Any) -> None:
    model = language_model()
    program = lm_program(model, cache=cache)
    feeds = example_feeds(program.part, {"batch": 2, "kept": 4, "sequence": 3, "past": 5, "capacity": 9}, seed=0)
    tensors = {k: torch.from_numpy(v) for k, v in feeds.items()}
    expected = model(
        tensors["input_ids"],
        pad_length=tensors["pad_length"],
        past=[(tensors[f"past_key_{i}"], tensors[f"past_value_{i}"]) for i in range(2)],
        past_length=tensors.get("past_length"),
    )
    results = call(program, feeds)
    assert feeds["logits_to_keep"].any()
    kept = expected.logits[:, tensors["logits_to_keep"]]
    assert results["logits"].shape == (2, 4, 256)
    torch.testing.assert_close(results["logits"], kept, rtol=SAME, atol=SAME)
    for i, (key, value) in enumerate(expected.present):
        assert torch.equal(results[f"present_key_{i}"], key)
        assert torch.equal(results[f"present_value_{i}"], value)
    assert list(results) == ["logits", "present_key_0", "present_value_0", "present_key_1", "present_value_1"]
    assert not program.part.module.training


@pytest.mark.parametrize("cache", ["growing", "buffer"])
def test_examples_of_the_language_model_look_at_padding_and_at_every_layers_cache(cache: Any) -> None:
    program = lm_program(language_model(), cache=cache)
    for seed in range(3):
        feeds = example_feeds(program.part, {"batch": 2, "kept": 2, "sequence": 3, "past": 4, "capacity": 8}, seed=seed)
        before = call(program, feeds)["logits"]
        assert (feeds["pad_length"] > 0).all()
        for state in program.part.interface.state:
            changed = {**feeds, state.input: np.zeros_like(feeds[state.input])}
            assert float((call(program, changed)["logits"] - before).abs().max()) > 100 * SAME, state.input
        unpadded = {**feeds, "pad_length": np.zeros_like(feeds["pad_length"])}
        assert float((call(program, unpadded)["logits"] - before).abs().max()) > 100 * SAME


def test_the_language_models_interface() -> None:
    growing = lm_program(language_model())
    assert [(t.name, t.dtype, t.shape, t.low, t.high) for t in growing.part.interface.inputs] == [
        ("input_ids", "int64", ("batch", "sequence"), 0, 256),
        ("pad_length", "int64", ("batch",), 0, 24),
        ("logits_to_keep", "int64", ("kept",), 0, "sequence"),
    ]
    assert [t.shape for t in growing.part.interface.outputs] == [("batch", "kept", 256)]
    assert [(d.name, d.min, d.max) for d in growing.part.interface.dims] == [
        ("batch", 1, 64),
        ("kept", 1, 24),
        ("sequence", 1, 24),
        ("past", 0, 24),
    ]
    assert {s.shape for s in growing.part.interface.state} == {("batch", 2, "past", 4)}
    assert growing.part.interface.length_inputs == ()
    buffer = lm_program(language_model(), cache="buffer")
    dims = buffer.part.interface.dims_by_name
    assert [(d.name, d.max) for d in dims.values()][2:] == [("sequence", 24), ("capacity", 24)]
    assert {(s.shape, s.room(0, dims), s.length_input) for s in buffer.part.interface.state} == {
        (("batch", 2, "capacity", 4), 24, "past_length")
    }
    assert buffer.model_config == LM.to_dict()


def test_the_smallest_context_has_examples() -> None:
    model = TransformerLM(dataclasses.replace(LM, context_length=2))
    for cache in ("growing", "buffer"):
        program = lm_program(model, cache=cache)
        feeds = example_feeds(program.part, {"batch": 2, "kept": 1, "sequence": 1, "past": 0, "capacity": 2}, seed=0)
        assert bool(call(program, feeds)["logits"].isfinite().all())
    with pytest.raises(ConfigError, match=r"LMConfig\.context_length is 1\nmust be at least 2"):
        lm_program(TransformerLM(dataclasses.replace(LM, context_length=1)))


def test_language_models_that_cannot_be_exported() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown cache 'ring'\nvalid: buffer, growing"):
        lm_program(language_model(), cache="ring")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown tokenizer 'byte'"):
        lm_program(language_model(), text=TextAssets(tokenizer=TokenizerInfo(kind="byte")))
    small = TransformerLM(dataclasses.replace(LM, vocab_size=255))
    with pytest.raises(BundleError, match=r"the tokenizer has 256 tokens, the model 255\nexport the model again with"):
        lm_program(small)


def test_a_vocabulary_may_be_padded() -> None:
    padded = TransformerLM(dataclasses.replace(LM, vocab_size=300))
    assert lm_program(padded).settings.vocab_size == 300
    pipeline = TextPipeline(open_torch(lm_program(padded)), lm_program(padded).settings)
    (result,) = pipeline.generate("a", max_new_tokens=20, sampling=SamplingParams(temperature=9.0))
    assert max(result.token_ids) >= 256


def test_a_model_without_text_takes_ids_and_gives_ids() -> None:
    program = lm_program(language_model(), text=NO_TEXT)
    with TextPipeline(open_torch(program), program.settings) as pipeline:
        prompts: list[Any] = [[1, 2, 3], np.array([4])]
        result, other = pipeline.generate(prompts, max_new_tokens=4)
        assert (result.text, len(result.token_ids), result.prompt_tokens, other.prompt_tokens) == ("", 4, 3, 1)
        with pytest.raises(InputError, match="this model has no tokenizer"):
            pipeline.generate("text")


def test_what_a_model_says_about_text_goes_into_its_program() -> None:
    text = TextAssets(
        tokenizer=TokenizerInfo(kind="bytes"),
        chat=ChatInfo(templates={"default": "chat_template.jinja"}, special_tokens={"bos_token": "<s>"}),
        bos_token_id=256,
        eos_token_ids=(257, 258),
        pad_token_id=259,
        files={"chat_template.jinja": b"{{ messages }}"},
        notes=("a note",),
    )
    program = lm_program(TransformerLM(dataclasses.replace(LM, vocab_size=260)), text=text)
    settings = program.settings
    assert (settings.bos_token_id, settings.eos_token_ids, settings.pad_token_id) == (256, (257, 258), 259)
    assert settings.chat == text.chat
    assert program.assets == text.files
    assert program.notes == ("a note",)
    assert open_torch(program).assets == text.files


@torch.no_grad()
@pytest.mark.parametrize("classes", [None, 5])
@pytest.mark.parametrize("context", [False, True])
def test_the_flat_unet_passes_every_condition_on(classes: int | None, context: bool) -> None:
    config = dataclasses.replace(UNET, num_class_embeds=classes, **(CONTEXT if context else {}))
    model = UNet(config)
    program = unet_program(model, SCHEDULE)
    names = ["sample", "timestep", *["class_labels"] * bool(classes), *["encoder_hidden_states"] * context]
    assert [t.name for t in program.part.interface.inputs] == names
    feeds = example_feeds(program.part, sizes(program, batch=3), seed=0)
    (result,) = call(program, feeds).values()
    expected = model.eval()(**{k: torch.from_numpy(v) for k, v in feeds.items()})
    assert result.shape == (3, 2, 8, 8)
    assert torch.equal(result, expected)
    for name, array in feeds.items():
        # Every input must matter, or the comparison above proves nothing about it.
        changed = {**feeds, name: (array + 1) % 5 if name == "class_labels" else array * np.float32(0.5)}
        assert float((call(program, changed)["model_output"] - result).abs().max()) > SAME, name


def test_examples_of_the_unet_span_the_schedule() -> None:
    program = unet_program(UNet(UNET), SCHEDULE)
    timesteps = example_feeds(program.part, sizes(program, batch=128), seed=0)["timestep"]
    assert 0 <= timesteps.min() < 40
    assert 360 < timesteps.max() <= 400


@pytest.mark.parametrize(
    ("classes", "null", "asked"), [(None, None, None), (5, None, 5), (5, 4, 4), (5, 0, 5)], ids=str
)
def test_the_null_class_cannot_be_asked_for_where_it_is_the_last(
    classes: int | None, null: int | None, asked: int | None
) -> None:
    config = dataclasses.replace(UNET, num_class_embeds=classes, null_class=null)
    settings: Any = unet_program(UNet(config), SCHEDULE, default_steps=7).settings
    assert (settings.num_classes, settings.null_class) == (asked, null)
    assert settings.sample_shape == (2, 8, 8)
    assert settings.schedule is SCHEDULE
    assert settings.default_steps == 7


@torch.no_grad()
def test_sides_vary_where_the_model_is_large_enough_or_it_is_asked_for() -> None:
    large = unet_program(UNet(dataclasses.replace(UNET, sample_size=32)), SCHEDULE)
    assert (
        large.part.interface.inputs[0].shape == large.part.interface.outputs[0].shape == ("batch", 2, "height", "width")
    )
    assert [(d.name, d.min, d.multiple_of) for d in large.part.interface.dims[1:]] == [
        ("height", 2, 2),
        ("width", 2, 2),
    ]
    fixed = unet_program(UNet(dataclasses.replace(UNET, sample_size=32)), SCHEDULE, dynamic_size=False)
    assert fixed.part.interface.inputs[0].shape == ("batch", 2, 32, 32)
    assert unet_program(UNet(UNET), SCHEDULE).part.interface.inputs[0].shape == ("batch", 2, 8, 8)
    asked = unet_program(UNet(UNET), SCHEDULE, dynamic_size=True)
    feeds = example_feeds(asked.part, {"batch": 1, "height": 6, "width": 10}, seed=0)
    assert call(asked, feeds)["model_output"].shape == (1, 2, 6, 10)


@torch.no_grad()
def test_the_flat_generator_is_the_generator_in_evaluation_mode() -> None:
    config = GeneratorConfig(image_size=8, latent_size=6, num_classes=3, base_channels=4)
    model = Generator(config).train()
    program = gan_program(model)
    feeds = example_feeds(program.part, {"batch": 4}, seed=0)
    (image,) = call(program, feeds).values()
    assert image.shape == (4, 1, 8, 8)
    assert not model.training
    assert torch.equal(image, model(torch.from_numpy(feeds["latents"]), torch.from_numpy(feeds["class_labels"])))
    # In evaluation mode a row does not depend on the others.
    alone = call(program, {k: v[:1] for k, v in feeds.items()})["image"]
    assert float((alone - image[:1]).abs().max()) <= SAME
    assert [(t.name, t.shape, t.high) for t in program.part.interface.inputs] == [
        ("latents", ("batch", 6), None),
        ("class_labels", ("batch",), 3),
    ]


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_a_learned_variance_doubles_the_output_and_asks_for_ddpm(kind: Any) -> None:
    learned = ScheduleConfig(num_train_timesteps=400, variance_type=kind)
    twice = dataclasses.replace(UNET, out_channels=4)
    program = unet_program(UNet(twice), learned)
    assert isinstance(program.settings, DiffusionSettings)
    assert program.settings.sample_shape == (2, 8, 8)
    assert program.settings.default_sampler == "ddpm"
    assert program.part.interface.outputs[0].shape == ("batch", 4, 8, 8)
    images = DiffusionPipeline(TorchSession(program.part), program.settings).generate(batch=2, steps=1)
    assert images.shape == (2, 2, 8, 8)


@pytest.mark.parametrize(
    ("channels", "kind", "message"),
    [
        (
            (2, 4),
            "fixed_small",
            r"out_channels is 4, in_channels is 2, .* variance_type 'fixed_small'\nset",
        ),
        ((2, 2), "learned_range", r"out_channels is 2, the schedule's variance_type 'learned_range'\n.* = 4"),
        ((9, 4), "fixed_small", r"out_channels is 4, in_channels is 9\nmust be as many"),
    ],
)
def test_channels_and_variance_belong_together(channels: tuple[int, int], kind: Any, message: str) -> None:
    config = dataclasses.replace(UNET, in_channels=channels[0], out_channels=channels[1])
    with pytest.raises(ConfigError, match=message):
        unet_program(UNet(config), ScheduleConfig(variance_type=kind))
