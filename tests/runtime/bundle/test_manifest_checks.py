"""Every value of a manifest is judged by what it means, before an engine is loaded or memory is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigc_runtime.bundle.manifest_file import parse_manifest
from aigc_runtime.errors import BundleError
from aigc_runtime.generation.sampling_params import SamplingParams
from aigc_runtime.io.jsonable import to_json

Json = dict[str, Any]
Edit = Callable[[Json], object]


def refuse(toy_bundles: Path, name: str, edit: Edit, message: str) -> None:
    value = json.loads((toy_bundles / name / "manifest.json").read_bytes())
    parse_manifest(json.dumps(value).encode())
    edit(value)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(value).encode())


def interface(m: Any) -> Any:
    """Of the only engine."""
    return m["engines"]["model"]["interface"]


def request(**arguments: Any) -> Edit:
    return lambda m: m["reference"]["generation"]["request"].update(arguments)


def arrays(**files: str) -> Edit:
    return lambda m: m["reference"]["generation"]["arrays"].update(files)


def without_count(**files: str) -> Edit:
    def edit(m: Any) -> None:
        m["reference"]["generation"].update(request={"seed": 0}, arrays=files)

    return edit


def settings(**fields: Any) -> Edit:
    return lambda m: m["pipeline"].update(fields)


ANY: list[tuple[Edit, str]] = [
    (lambda m: m.update(name=""), r"name is '', must|name is ''\nmust be 1 to 255 printable"),
    (lambda m: m.update(name="a\x1b[2J"), r"name is 'a\\x1b\[2J'\nmust be 1 to 255 printable characters"),
    (lambda m: m.update(name="\u202e"), r"name is '\\u202e'"),
    (lambda m: m.update(name="x" * 256), r"name is 'x+', 256 characters"),
    (lambda m: m.update(name="\ud800"), r"half of a surrogate pair in '\\ud800'"),
    (lambda m: m["provenance"].update({"\udc00": ""}), r"half of a surrogate pair in '\\udc00'"),
    (lambda m: m["model_config"].update(a=[{"b": "\ud8ff"}]), "half of a surrogate pair"),
    (lambda m: m["provenance"].update(a="b\nc"), r"provenance\.a is 'b\\nc'"),
    (lambda m: m["provenance"].update({"a\x00": "b"}), r"a name in provenance is 'a\\x00'"),
    (lambda m: m.update(target="ort\tcpu"), r"target is 'ort\\tcpu'"),
    (lambda m: m.update(precision="fp64"), r"unknown precision 'fp64'\nvalid: bf16, fp16.* Did you mean"),
    (
        lambda m: m["engines"]["model"].update(kind="openvino"),
        r"unknown engine 'openvino'\nvalid: onnxruntime, tensorrt",
    ),
    (lambda m: m["quality"].append(dict(m["quality"][0])), r"quality holds a metric twice"),
    (lambda m: m["quality"][0].update(bundle=1e300), r"quality 'toy' is 1e\+300"),
    (lambda m: m["reference"]["cases"][0].update(steps=[]), r"case 'case' has no steps with outputs"),
    (lambda m: m["reference"]["cases"].append({"name": "b", "steps": []}), r"case 'b' has no steps with outputs"),
    (lambda m: m["reference"]["cases"].append(m["reference"]["cases"][0]), r"reference\.cases holds a name twice"),
    (
        lambda m: interface(m)["outputs"][0].update(dtype="int8"),
        r"has dtype 'int8'\nmust be float32",
    ),
    (lambda m: interface(m)["outputs"][0].update(low=0), "is float32 and has bounds"),
    (
        lambda m: interface(m)["dims"][0].update(min=5, max=7, multiple_of=8),
        "no size from 5 to 7 is a multiple of 8",
    ),
    (lambda m: interface(m)["dims"][0].update(max=2**40), "max is 1,099,511,627,776"),
    (request(seed=-1), "seed is -1"),
    (request(seed=1.5), r"seed is 1\.5"),
    (request(zz=1), r"the reference's request has 'zz'\nknown: "),
    (request(cancel=1), "the reference's request has 'cancel'"),
    (lambda m: m["tolerances"].update(max_quality_drop=1e300), "max_quality_drop is 1e[+]300"),
]


@pytest.mark.parametrize("name", ["toy_lm_growing", "toy_unet", "toy_gan"])
@pytest.mark.parametrize(("edit", "message"), ANY)
def test_of_any_family(name: str, edit: Edit, message: str, toy_bundles: Path) -> None:
    refuse(toy_bundles, name, edit, message)


def tokenizer(kind: str, file: str | None = None) -> Edit:
    return settings(tokenizer={"kind": kind, "file": file, "clean_up_spaces": False})


CHAT = {"templates": {"default": "chat.jinja"}, "special_tokens": {}}
TEXT: list[tuple[Edit, str]] = [
    (settings(vocab_size=0), r"vocab_size is 0\nmust be from 1 to 16,777,216"),
    (settings(vocab_size=2**25), r"vocab_size is 33,554,432\nmust be from 1 to 16,777,216"),
    (settings(vocab_size=257), r"'logits' has shape \['batch', 'kept', 256\], the settings say"),
    (settings(context_length=-1), "context_length is -1"),
    (settings(context_length=2**40), r"context_length is 1,099,511,627,776\nmust be from 1 to 16,777,216"),
    (settings(pad_token_id=256), r"pad_token_id is 256\nmust be from 0 to 255"),
    (settings(pad_token_id=-1), "pad_token_id is -1"),
    (settings(eos_token_ids=[3, 256]), r"eos_token_ids is 256\nmust be from 0 to 255"),
    (settings(eos_token_ids=[3, 3]), r"eos_token_ids holds a token twice: \[3, 3\]"),
    (settings(eos_token_ids=3), r"eos_token_ids is the number 3, expected a list"),
    (tokenizer("zz"), "unknown tokenizer"),
    (settings(tokenizer={"kind": "bytes"}), r"\$\.pipeline\.tokenizer\.file, clean_up_spaces are missing"),
    (tokenizer("bytes", "model.onnx"), r"assets lacks 'model\.onnx', which the pipeline reads"),
    (
        lambda m: (
            tokenizer("bytes", "model.onnx")(m),
            m.update(assets=["model.onnx"]),
            m["reference"].update(text="model.onnx"),
        ),
        "the byte tokenizer has the file 'model.onnx'",
    ),
    (tokenizer("huggingface"), "the huggingface tokenizer has no file"),
    (tokenizer("huggingface", "t.json"), r"assets lacks 't\.json', which the pipeline reads"),
    (settings(chat=CHAT), r"assets lacks 'chat\.jinja', which the pipeline reads"),
    (settings(chat={**CHAT, "templates": {"tool_use": "t"}}), r"chat\.templates has no 'default'\nit has: tool_use"),
    (
        lambda m: m["reference"].update(text="model.onnx"),
        r"reference\.text is 'model\.onnx'\na file where the pipeline",
    ),
    (lambda m: m["reference"].update(text="none.json"), r"files lacks \['none\.json'\]"),
    (
        lambda m: (tokenizer("huggingface", "model.onnx")(m), m.update(assets=["model.onnx"])),
        r"reference\.text is None\na file where the pipeline has a tokenizer",
    ),
    (lambda m: m.update(assets=["none.json"]), r"files lacks \['none\.json'\]"),
    (lambda m: m.update(assets=["model.onnx", "model.onnx"]), "assets names a file twice"),
    (settings(bos_token_id=256), r"bos_token_id is 256\nmust be from 0 to 255"),
    (settings(recompute_at=0), r"recompute_at is 0\nmust be from 1 to 16,777,216"),
    (settings(sampling={"top_k": 3}), r"\$\.pipeline\.sampling\.temperature, .* are missing"),
    (settings(sampling={**to_json(SamplingParams()), "top_k": -3}), r"\$\.pipeline\.sampling: top_k is -3"),
    (
        settings(sampling={**to_json(SamplingParams()), "suppress_tokens": [256]}),
        "sampling.suppress_tokens holds token 256",
    ),
    (settings(bos_token_id=7), r"the byte tokenizer: bos is 7\nmust be an integer from 256"),
    (
        lambda m: interface(m)["inputs"][0].update(high=257),
        "takes ids below 257, vocab_size is 256",
    ),
    (lambda m: interface(m)["inputs"][0].update(high="sequence"), "takes ids below sequence, vocab_size is 256"),
    (lambda m: interface(m)["inputs"][2].update(high="+"), "the bound of tensor 'logits_to_keep': '\\+' is not a size"),
    (lambda m: interface(m)["inputs"][0].update(low=5, high=5), "has low 5, high 5"),
    (
        lambda m: interface(m)["inputs"][0].update(dtype="int32"),
        "has dtype 'int32'\nmust be int64",
    ),
    (lambda m: (m.update(state={}), interface(m).update(state=None)), "the engine carries no state"),
    (request(max_new_tokens=0), r"request\.max_new_tokens is 0"),
    (request(max_new_tokens="6"), r"request\.max_new_tokens is '6'\nmust be an integer"),
    (request(max_new_tokens=True), r"request\.max_new_tokens is True"),
    (request(prompts=[]), r"request\.prompts is empty"),
    (request(prompts=[""]), r"request\.prompts is \[''\]"),
    (request(prompts=5), r"request\.prompts is 5"),
    (request(stop=["a", 1]), r"request\.stop is \['a', 1\]"),
    (request(sampling="hot"), r"request\.sampling is 'hot'\nmust be an object with some of \['temperature'"),
    (request(num_return_sequences=0), r"request\.num_return_sequences is 0"),
    (request(num_return_sequences=2**15), "the reference's request asks for 196,608 tokens"),
    (request(logprobs="all"), r"request\.logprobs is 'all'"),
    (request(prefill_chunk=0.5), r"request\.prefill_chunk is 0\.5"),
    (request(sampling=[]), r"request\.sampling is \[\]"),
    (request(sampling={"heat": 1}), r"request\.sampling is \{'heat': 1\}"),
    (request(sampling={"temperature": "hot"}), "temperature is 'hot'"),
    (request(sampling={"top_k": 1.5}), r"top_k is 1\.5"),
    (request(prompts=["a"] * 5000), r"asks for 30,000 tokens|asks for 1,150 rows|rows of text"),
    (lambda m: m["reference"]["generation"]["request"].pop("prompts"), "request has no 'prompts'"),
]


@pytest.mark.parametrize(("edit", "message"), TEXT)
def test_of_text(edit: Edit, message: str, toy_bundles: Path) -> None:
    refuse(toy_bundles, "toy_lm_growing", edit, message)


BUFFER: list[tuple[Edit, str]] = [
    (settings(context_length=33), r"context_length is 33, the carried state holds 32 steps"),
    (
        lambda m: m["state"]["carried"][0].update(shape=["batch", 40_000_000, 32, 2**10]),
        r"the carried state of one row has 5,242,880,000,000 bytes at its longest\nat most 34,359,738,368 are allowed",
    ),
]


@pytest.mark.parametrize(("edit", "message"), BUFFER)
def test_of_carried_state(edit: Edit, message: str, toy_bundles: Path) -> None:
    refuse(toy_bundles, "toy_lm_buffer", edit, message)


DIFFUSION: list[tuple[Edit, str]] = [
    (
        settings(sample_shape=[1, 200_000, 200_000]),
        r"sample_shape is \[1, 200000, 200000\]\n.*at most 268,435,456 num",
    ),
    (settings(sample_shape=[1, 4, 5]), r"'sample' has shape \['batch', 1, 4, 4\], the settings say"),
    (settings(num_classes=0), "num_classes is 0"),
    (settings(num_classes=-3), "num_classes is -3"),
    (settings(num_classes=5, class_names=None), "takes 0 to 3, num_classes is 5"),
    (
        settings(num_classes=None, null_class=None, class_names=None),
        "num_classes is null, the engine has an input 'class_labels'",
    ),
    (settings(null_class=4), r"null_class is 4\nmust be from 0 to 3"),
    (settings(null_class=-1), r"null_class is -1"),
    (settings(default_sampler="zz"), r"default_sampler is 'zz'\nvalid: ddim"),
    (settings(default_steps=0), "default_steps is 0"),
    (settings(default_steps=-5), "default_steps is -5"),
    (settings(default_steps=1001), r"default_steps is 1,001\nmust be from 1 to 1,000"),
    (settings(default_guidance_scale=-1), "default_guidance_scale is -1"),
    (settings(default_guidance_scale=1e9), r"default_guidance_scale is 1,000,000,000"),
    (
        settings(default_guidance_scale=3, null_class=None),
        "default_guidance_scale is 3, and the model has no null_class",
    ),
    (request(steps=10**9), r"request\.steps is 1,000,000,000\nmust be from 1 to 10,000"),
    (request(steps=0), r"request\.steps is 0"),
    (request(steps=2.5), r"request\.steps is 2\.5"),
    (request(class_labels=[3]), "class label 3"),
    (request(class_labels=["a"]), "class labels"),
    (request(class_labels=[[0], [0, 1]]), "class labels"),
    (request(class_labels=[0, 1] * 40), r"images of shape \[80, 1, 4, 4\], 5,120 bytes or more, .* has 256\n"),
    (request(batch=10**9), r"request\.batch is 1,000,000,000\nmust be from 1 to 16,777,216"),
    (request(batch=3), r"asks for \{'class_labels': 2, 'batch': 3\} images"),
    (request(size=[200_000, 200_000]), "size is 200000 x 200000"),
    (request(size="4x4"), "size is '4x4'"),
    (request(sampler="zz"), r"request\.sampler is 'zz'"),
    (request(eta="0"), r"request\.eta is '0'"),
    (request(guidance_scale=1e9), r"request\.guidance_scale is 1,000,000,000"),
    (
        request(encoder_hidden_states=[[[0.5]]]),
        r"request\.encoder_hidden_states is in the manifest\nan array",
    ),
    (request(null_encoder_hidden_states=None), r"request\.null_encoder_hidden_states is in the manifest"),
    (arrays(steps="ref.generation.npy"), r"request\.steps is a file\nonly encoder_hidden_states and null_"),
    (arrays(zz="ref.generation.npy"), "the reference's request has 'zz'"),
    (arrays(encoder_hidden_states="none.npy"), r"files lacks \['none\.npy'\]"),
    (
        without_count(encoder_hidden_states="ref.generation.npy"),
        "has arrays and does not say for how many images\ngive batch",
    ),
]


@pytest.mark.parametrize(("edit", "message"), DIFFUSION)
def test_of_diffusion(edit: Edit, message: str, toy_bundles: Path) -> None:
    refuse(toy_bundles, "toy_unet", edit, message)


GAN: list[tuple[Edit, str]] = [
    (settings(latent_size=40_000_000_000), r"latent_size is \[40000000000\]\n.*at most 268,435,456 numbers"),
    (settings(latent_size=5), r"'latents' has shape \['batch', 4\], the settings say"),
    (settings(num_classes=4), "takes 0 to 2, num_classes is 4"),
    (lambda m: interface(m)["inputs"][1].update(high="batch"), "takes 0 to batch - 1, num_classes is 3"),
    (request(truncation="1"), r"request\.truncation is '1'"),
    (request(truncation=-1), r"request\.truncation is -1"),
    (request(class_labels=list(range(3)) * 40), r"asks for images of shape \[120, 1, 2, 2\]"),
    (lambda m: m["reference"]["generation"]["request"].pop("class_labels"), "request has no 'class_labels'"),
]


@pytest.mark.parametrize(("edit", "message"), GAN)
def test_of_gans(edit: Edit, message: str, toy_bundles: Path) -> None:
    refuse(toy_bundles, "toy_gan", edit, message)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("toy_lm_growing", "min_token_agreement"), ("toy_unet", "min_psnr_db"), ("toy_gan", "min_psnr_db")],
)
def test_the_generation_has_a_limit(name: str, limit: str, toy_bundles: Path) -> None:
    def without(m: Json) -> None:
        m["tolerances"][limit] = None

    refuse(
        toy_bundles,
        name,
        without,
        rf"tolerances\.{limit} is null, and .* of the generation is held against it\na check",
    )
