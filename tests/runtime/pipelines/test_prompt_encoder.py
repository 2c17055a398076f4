"""What a UNet sees of prompts: states of two encoders side by side, each text read once, and sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.program import OpenProgram
from aigc_runtime.errors import ConfigError, InputError
from aigc_runtime.pipelines.prompt_encoder import PromptEncoder
from aigc_runtime.pipelines.text_to_image import TextToImagePipeline

from .picture_toys import (
    ROLES,
    SETTINGS,
    TOKENS,
    XL_ROLES,
    XL_SETTINGS,
    pipeline,
    program,
    read,
    read_twice,
    xl_pipeline,
    xl_program,
)


def encoder(opened: OpenProgram) -> PromptEncoder:
    return PromptEncoder(opened, XL_SETTINGS, XL_ROLES, opened.session("unet"))


def test_states_lie_side_by_side_and_each_encoder_fills_up_with_its_own_token() -> None:
    seen = encoder(xl_program()).encode(["ab", "c", "ab"])
    assert list(seen) == ["ab", "c"]
    ids = np.frombuffer(b"ab", np.uint8)
    first, second = (np.array([[*ids, *[pad] * (TOKENS - len(ids))]], np.int64) for pad in (0, 1))
    states = read({"input_ids": first})["encoder_hidden_states"], read_twice({"input_ids": second})
    wanted = np.concatenate([states[0], states[1]["encoder_hidden_states"]], axis=2)
    np.testing.assert_array_equal(seen["ab"]["encoder_hidden_states"], wanted[0])
    np.testing.assert_array_equal(seen["ab"]["text_embeds"], states[1]["text_embeds"][0])


def test_each_text_is_read_once_by_each_encoder() -> None:
    sessions, rows = dict(xl_program().sessions), dict.fromkeys(("text_encoder", "text_encoder_2"), 0)
    for name in rows:
        honest = sessions[name]

        def counted(values: Any, name: str = name, honest: Any = honest) -> Any:
            rows[name] += len(values["input_ids"])
            return honest.run(values)

        sessions[name] = ArraySession(counted, honest.interface)
    ours = TextToImagePipeline(OpenProgram(sessions), XL_SETTINGS, XL_ROLES)
    ours.generate(["a", "b", "a"], negative="c", steps=1)
    assert rows == {"text_encoder": 3, "text_encoder_2": 3}


def test_each_encoder_reads_its_own_text() -> None:
    ours = encoder(xl_program())
    seen = ours.encode([("ab", "c"), "ab", "c", ("c", "c")])
    alone = {text: ours.encode([text])[text]["encoder_hidden_states"] for text in ("ab", "c")}
    wanted = np.concatenate([alone["ab"][:, :3], alone["c"][:, 3:]], axis=1)
    np.testing.assert_array_equal(seen["ab", "c"]["encoder_hidden_states"], wanted)
    np.testing.assert_array_equal(seen["ab", "c"]["text_embeds"], seen["c"]["text_embeds"])
    np.testing.assert_array_equal(seen["c", "c"]["encoder_hidden_states"], alone["c"])
    assert not np.array_equal(seen["ab"]["encoder_hidden_states"], wanted)


def test_a_second_prompt_of_a_request() -> None:
    request = xl_pipeline().request
    assert request("a", prompt_2="b", count=2).prompts == (("a", "b"), ("a", "b"))
    assert request(["a", "c"], prompt_2="b").prompts == (("a", "b"), ("c", "b"))
    assert request(["a", "c"], prompt_2=["b", ""]).prompts == (("a", "b"), "c")
    both = request("a", negative="n", negative_2="m")
    assert (both.prompts, both.negatives) == (("a",), (("n", "m"),))
    assert request("a", negative_2="").zero_negative


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt_2": 7}, "prompt_2 is 7"),
        ({"prompt_2": ["b", "c"]}, r"prompt_2 has 2 texts for 1 prompts\ngive 1, or one for each prompt"),
        ({"prompt_2": "a" * 200_000}, "a prompt_2 has 200,000 characters"),
        ({"negative_2": "m"}, r"negative_2 is 'm', and there is no negative .*\ngive negative, too"),
        ({"negative_2": "m", "guidance_scale": 0}, r"no negative .*\nleave it out, or set a guidance_scale above 1"),
        ({"negative": "n", "negative_2": ["m", "m"]}, "negative_2 has 2 texts for 1 prompts"),
    ],
)
def test_second_prompts_that_are_none(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        xl_pipeline().request("a", **given)


def test_a_model_of_one_text_encoder_takes_no_second_prompt() -> None:
    for given in ({"prompt_2": "b"}, {"negative_2": "b"}):
        with pytest.raises(InputError, match=r"_2 is 'b', and this model has one text encoder\nleave it out"):
            pipeline().request("a", **given)


def test_what_is_cut_off_is_told_once() -> None:
    told = "a prompt has more than 10 tokens, not seen: {!r}"
    assert encoder(xl_program()).notes(["0123456789ab"]) == (told.format("ab"),)
    assert encoder(xl_program()).notes([("0123456789ab", "0123456789c")]) == (told.format("ab"), told.format("c"))


def test_nothing_in_place_of_a_negative_text() -> None:
    """Zeros for the text, the sizes as they are: w out + (1 - w) out_null, in one step of prediction."""
    ours = xl_pipeline()
    fed: list[dict[str, Any]] = []
    session = ours.unet

    def kept(values: Any) -> Any:
        fed.append(dict(values))
        return session.run(values)

    ours.unet = ArraySession(kept, session.interface)
    ours.generate("a", steps=1)
    (values,) = fed
    assert not values["encoder_hidden_states"][1].any()
    assert not values["text_embeds"][1].any()
    assert values["encoder_hidden_states"][0].any()
    np.testing.assert_array_equal(values["time_ids"], [[16, 24, 0, 0, 16, 24]] * 2)
    fed.clear()
    ours.generate("a", negative="", steps=1)
    assert fed[0]["encoder_hidden_states"][1].any()


def test_sizes_of_a_request() -> None:
    ours = xl_pipeline()
    assert ours.request("a").sizes == (16, 24, 0, 0, 16, 24)
    given = {"original_size": (8, 9), "crop": (1, 2), "target_size": [30, 31]}
    assert ours.request("a", size=(32, 16), **given).sizes == (8, 9, 1, 2, 30, 31)
    assert pipeline().request("a").sizes is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"original_size": (0, 8)}, r"original_size is .*\nmust be \(height, width\), whole numbers from 1 to 65,536"),
        ({"target_size": (8, 2**17)}, "target_size is "),
        ({"crop": (0, -1)}, r"crop is .*\nmust be \(top, left\), whole numbers from 0"),
        ({"crop": (0, 1.5)}, "crop is "),
        ({"crop": 3}, r"crop is 3\nmust be \(top, left\)"),
        ({"original_size": "8x8"}, "original_size is '8x8'"),
    ],
)
def test_sizes_that_are_none(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        xl_pipeline().request("a", **given)


def test_a_model_that_sees_no_sizes() -> None:
    with pytest.raises(InputError, match=r"crop is .* and this model sees no sizes"):
        pipeline().request("a", crop=(0, 0))


def test_engines_that_do_not_belong_together() -> None:
    with pytest.raises(ConfigError, match="engines for text_encoder, text_encoder_2, unet"):
        TextToImagePipeline(xl_program(), SETTINGS, XL_ROLES)
    with pytest.raises(ConfigError, match="engines for text_encoder, unet"):
        TextToImagePipeline(program(), XL_SETTINGS, ROLES)
    sessions = dict(xl_program().sessions)
    text = sessions["text_encoder_2"]
    for name, outputs, message in (
        ("wider", (text.interface.outputs[0], replace(text.interface.outputs[1], shape=("batch", 2))), "2 numbers"),
        ("bare", text.interface.outputs[:1], "the UNet takes 'text_embeds', which no text encoder gives"),
        (
            "states",
            (replace(text.interface.outputs[0], shape=("batch", TOKENS, 4)), text.interface.outputs[1]),
            "3 . 4",
        ),
    ):
        sessions["text_encoder_2"] = ArraySession(read_twice, replace(text.interface, outputs=outputs))
        with pytest.raises(ConfigError, match=message):
            encoder(OpenProgram(sessions))
        assert name
