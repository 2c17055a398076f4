"""Upscalers are recognized by their tensors, in every form that files have; what is missing or odd is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from aigc_models.families.rrdbnet import RRDBNetConfig
from aigc_models.families.srvgg import SRVGGNetConfig
from aigc_models.sources import outline, resolve
from aigc_runtime.errors import AigcError, CheckpointError, ConfigError, UnknownNameError

from .files import COMPACT, SMALL, as_esrgan, as_old, rrdbnet_state, srvgg_state

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "params_ema": lambda state: {"params_ema": state},
    "params": lambda state: {"params": state},
    "ema beside the last": lambda state: {"params": {n: t + 1 for n, t in state.items()}, "params_ema": state},
    "model prefix": lambda state: prefixed("model", state),
    "a training's checkpoint": lambda state: {"state_dict": prefixed("generator", state), "iter": 5},
    "ESRGAN's names": as_esrgan,
    "ESRGAN's old names": as_old,
    "old names behind a prefix": lambda state: prefixed("module", as_old(state)),
}


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=pytest.mark.slow) if form == "ESRGAN's old names" else form for form in FORMS]
)
def test_a_file_of_any_form_is_the_same_network(form: str, tmp_path: Path) -> None:
    state = rrdbnet_state()
    path = tmp_path / "x4.pth"
    torch.save(FORMS[form](state), path)
    program = resolve(str(path))
    assert (program.kind, program.name, program.source) == ("upscale", "x4", str(path))
    module: Any = program.part.module
    assert module.model.config == SMALL
    loaded = module.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert program.settings.scale == 4
    assert len(program.weights_sha256) == 64


@pytest.mark.parametrize(
    ("config", "words", "scale", "multiple_of"),
    [
        (RRDBNetConfig(num_feat=6, num_block=3, num_grow_ch=3, unshuffle=2), "a pixel-unshuffle by 2", 2, 2),
        (RRDBNetConfig(num_feat=6, num_block=1, num_grow_ch=4, unshuffle=4), "a pixel-unshuffle by 4", 1, 4),
        (RRDBNetConfig(num_feat=6, num_block=2, num_grow_ch=3, upsamples=1), "2 blocks of 6 features", 2, 1),
        (RRDBNetConfig(num_feat=6, num_block=2, num_grow_ch=3, upsamples=3, channels=1), "x8", 8, 1),
        (COMPACT, "2 convolutions of 5 features, x3", 3, 1),
        (SRVGGNetConfig(num_feat=4, num_conv=1, upscale=1, channels=1), "1 convolutions of 4 features, x1", 1, 1),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_sizes_follow_from_shapes(
    config: RRDBNetConfig | SRVGGNetConfig, words: str, scale: int, multiple_of: int, suffix: str, tmp_path: Path
) -> None:
    state = rrdbnet_state(config) if isinstance(config, RRDBNetConfig) else srvgg_state(config)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    name, known = outline(str(path))
    assert (name, known.kind) == ("by_keys", "upscale")
    assert known.parameters == sum(tensor.numel() for tensor in state.values())
    assert known.stored == {"float32": 4 * known.parameters}
    assert words in known.notes[0]
    program = resolve(str(tmp_path))  # the only file of a folder
    settings = program.settings
    assert (settings.scale, settings.multiple_of, settings.channels) == (scale, multiple_of, config.channels)
    assert program.model_config == config.to_dict()
    assert settings.overlap % multiple_of == 0
    assert settings.overlap >= min(config.radius, 24)


def test_half_precision_becomes_float_and_is_told(tmp_path: Path) -> None:
    torch.save({name: tensor.half() for name, tensor in srvgg_state().items()}, tmp_path / "a.pth")
    program = resolve(str(tmp_path / "a.pth"))
    assert next(program.part.module.parameters()).dtype == torch.float32
    assert any("float16 became float32" in note for note in program.notes)


def without(name: str) -> Callable[[State], State]:
    return lambda state: {n: t for n, t in state.items() if n != name}


def with_(name: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (rrdbnet_state, without("conv_hr.weight"), r"lacks tensor 'conv_hr.weight' of shape \[6, 6, 3, 3\]"),
        (rrdbnet_state, without("conv_last.weight"), r"lacks tensor 'conv_last.weight' of shape \[C, F, 3, 3\]"),
        (rrdbnet_state, without("body.1.rdb2.conv3.bias"), r"lacks tensor 'body.1.rdb2.conv3.bias'"),
        (rrdbnet_state, with_("conv_extra.weight", 2), r"has a tensor 'conv_extra.weight' of shape \[2\]"),
        (rrdbnet_state, with_("conv_body.bias", 7), r"'conv_body.bias' has shape \[7\], expected \[6\]"),
        (rrdbnet_state, with_("conv_first.weight", 6, 3, 5, 5), r"shape \[6, 3, 5, 5\], expected \[F, C, 3, 3\]"),
        (rrdbnet_state, with_("conv_first.weight", 6, 5, 3, 3), r"takes 5 channels, and 'conv_last.weight' gives 3"),
        (rrdbnet_state, with_("conv_first.weight", 6, 192, 3, 3), r"takes 192 channels"),
        (rrdbnet_state, with_("conv_up4.weight", 6, 6, 3, 3), r"doubles the sides 4 times"),
        (rrdbnet_state, with_("body.999999999.rdb1.conv1.weight", 1), r"beyond 1,024 layers"),
        (rrdbnet_state, with_("params.body.0.rdb1.conv1.weight", 1), r"several networks, under '', 'params'"),
        (lambda: as_old(rrdbnet_state()), without("model.6.weight"), r"lacks tensor 'model.6.weight'"),
        (
            lambda: as_old(rrdbnet_state()),
            with_("model.1.sub.0.RDB1.conv1x1.weight", 3),
            r"'model.1.sub.0.RDB1.conv1x1",
        ),
        (srvgg_state, without("body.2.bias"), r"lacks tensor 'body.2.bias'"),
        (srvgg_state, without("body.6.weight"), r"lacks tensor 'body.6.weight'"),
        (srvgg_state, with_("body.6.weight", 20, 5, 3, 3), r"gives 20 channels, and 'body.0.weight' takes 3"),
        (srvgg_state, with_("body.3.weight", 4), r"'body.3.weight' has shape \[4\], expected \[5\]"),
        (srvgg_state, with_("tail.weight", 4), r"has a tensor 'tail.weight'"),
        (srvgg_state, with_("body.7.weight", 4), r"ends with tensor 'body.7.weight'"),
        (
            lambda: {n: t for n, t in srvgg_state().items() if t.ndim == 4 or n.endswith("bias")},
            lambda state: state,
            r"without PReLUs between them",
        ),
        (rrdbnet_state, lambda state: {**state, "conv_hr.bias": torch.full((6,), torch.nan)}, r"NaN or infinite"),
    ],
)
def test_what_is_missing_or_odd_is_named(
    base: Callable[[], State], change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    torch.save({"params": change(base())}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        resolve(str(tmp_path / "a.pth"))
    if "NaN" not in message:  # which is known without a number read
        with pytest.raises(CheckpointError, match=message):
            outline(str(tmp_path / "a.pth"))


def test_another_network_is_none_of_them(tmp_path: Path) -> None:
    torch.save({"head.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"is of no nn\.TransformerEncoder"):
        resolve(str(tmp_path / "a.pth"))
    save_file({"head.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(AigcError):
        resolve(str(tmp_path / "a.safetensors"))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_file_that_holds_code_is_refused_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"params_ema": rrdbnet_state(), "extra": Harmful()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"params": Harmful()}))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(CheckpointError, match="could run code when loaded") as caught:
            resolve(str(tmp_path / name))
        assert "['G_ema'].state_dict()" in caught.value.hint  # a StyleGAN's pickle may have this suffix, too
    assert not (tmp_path / "ran").exists()


def test_options_of_other_models_are_refused(tmp_path: Path) -> None:
    torch.save(srvgg_state(), tmp_path / "a.pth")
    with pytest.raises(UnknownNameError, match="unknown export option of SRVGGNetCompact 'cache'"):
        resolve(str(tmp_path / "a.pth"), options={"cache": "buffer"})
    with pytest.raises(ConfigError, match="holds its weights itself"):
        resolve(str(tmp_path / "a.pth"), options={"checkpoint": "x"})
