"""GAN generators are recognized by their tensors; what is missing, odd or of another architecture is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from aigc_models.sources import outline, resolve
from aigc_models.torch_session import open_torch
from aigc_runtime.errors import CheckpointError, UnknownNameError
from aigc_runtime.io.npy import read_npy
from aigc_runtime.pipelines.gan import GanPipeline

from ...families.stylegan2.paper import mapped, public_state, synthesized
from ...families.test_dcgan import trained

State = dict[str, Tensor]


def dcgan_state() -> State:
    return trained().state_dict()


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "averaged": lambda state: {"G_ema": state, "G": {n: t + 1 for n, t in state.items()}, "D": {"x": torch.ones(1)}},
    "a prefix": lambda state: {f"G_ema.{name}": tensor for name, tensor in state.items()},
}


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_stylegan2_of_any_form(form: str, tmp_path: Path) -> None:
    state = public_state(classes=3)
    path = tmp_path / "faces.pth"
    torch.save(FORMS[form](state), path)
    name, known = outline(str(path))
    assert (name, known.kind, known.family) == ("by_keys", "gan", "stylegan2")
    assert "3 x 16 x 16, 7 latents, w of 9, 3 layers of mapping, 3 classes" in known.notes[0]
    program = resolve(str(path))
    assert (program.kind, program.name, program.engines) == (
        "gan",
        "faces",
        {"mapping": "mapping", "synthesis": "synthesis"},
    )
    np.testing.assert_array_equal(
        read_npy(program.assets["w_avg.npy"], dtypes=("float32",)), state["mapping.w_avg"].numpy()
    )
    pipeline = GanPipeline(open_torch(program), program.settings, program.engines)
    z = torch.randn(2, 7, generator=torch.Generator().manual_seed(4))
    w = mapped(state, z, [2, 0])
    mean = state["mapping.w_avg"].double()
    expected = synthesized(state, (mean + 0.6 * (w - mean))[:, None].repeat(1, 6, 1)).numpy()
    found = pipeline.generate([2, 0], seed=4, truncation=0.6)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"channels": (3, 2), "z": 4, "w": 5, "layers": 1}, "3 x 8 x 8, 4 latents, w of 5, 1 layers of mapping"),
        ({"channels": (3, 2, 2, 2), "colors": 1, "noise": False}, "1 x 32 x 32, 7 latents"),
        ({"classes": 2, "z": 3}, "3 latents, w of 9, 3 layers of mapping, 2 classes"),
    ],
)
def test_sizes_follow_from_shapes(sizes: dict[str, Any], words: str, tmp_path: Path) -> None:
    state = public_state(**sizes)
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    assert words in outline(str(tmp_path))[1].notes[0]
    assert resolve(str(tmp_path)).settings.style.layers == 2 * len(sizes.get("channels", (0, 0, 0)))


def test_noise_is_an_option(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save(public_state(), path)
    random = resolve(str(path), options={"noise": "random"})
    assert random.settings.noise_sides == (4, 8, 8, 16, 16)
    assert [t.name for t in random.parts["synthesis"].interface.inputs] == ["ws", *(f"noise_{n}" for n in range(5))]
    assert resolve(str(path), options={"noise": "none"}).settings.noise_sides == ()
    with pytest.raises(UnknownNameError, match="unknown noise 'const'"):
        resolve(str(path), options={"noise": "const"})
    torch.save(public_state(noise=False), path)
    silent = resolve(str(path), options={"noise": "random"})
    assert silent.settings.noise_sides == ()
    assert any("adds no noise" in note for note in silent.notes)


@torch.no_grad()
def test_a_dcgan_is_the_tutorials(tmp_path: Path) -> None:
    path = tmp_path / "netG.pth"
    torch.save({f"module.{name}": tensor for name, tensor in dcgan_state().items()}, path)
    assert "5 layers, 5 latents, 3 x 64 x 64" in outline(str(path))[1].notes[0]
    program = resolve(str(path))
    assert (program.kind, program.settings.num_classes) == ("gan", None)
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(7))
    expected = trained()(z[:, :, None, None]).numpy()
    found = GanPipeline(open_torch(program), program.settings).generate(batch=3, seed=7)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {n: t for n, t in state.items() if n not in names}


def with_(name: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.zeros(shape)}


def original(state: State) -> State:
    return {n: t for n, t in state.items() if "torgb" not in n or "b16" in n}


def tenfold(state: State) -> State:
    return {**state, **{f"synthesis.extra{n}": torch.zeros(2) for n in range(10)}}


CASES: list[tuple[Callable[[], State], Callable[[State], State], str]] = [
    (
        public_state,
        without("synthesis.b8.conv1.affine.bias"),
        r"lacks tensor 'synthesis.b8.conv1.affine.bias' of shape \[5\]",
    ),
    (public_state, without("mapping.w_avg"), r"lacks tensor 'mapping.w_avg' of shape \[S\]"),
    (public_state, without("mapping.fc1.bias"), r"lacks tensor 'mapping.fc1.bias'"),
    (public_state, with_("mapping.fc1.weight", 9, 8), r"'mapping.fc1.weight' has shape \[9, 8\], expected \[9, 9\]"),
    (public_state, with_("synthesis.b8.conv0.weight", 5, 6, 1, 1), r"shape \[5, 6, 1, 1\], expected \[O, I, 3, 3\]"),
    (public_state, with_("synthesis.b64.const", 2), r"blocks of sides 4, 8, 16, 64\nexpected 4, 8, 16"),
    (public_state, with_("synthesis.b8.skip.weight", 5, 6, 1, 1), r"architecture 'resnet', which is not read"),
    (public_state, original, r"architecture 'orig', which is not read"),
    (public_state, with_("synthesis.b4.resample_filter", 3, 3), r"filter_size is 3"),
    (public_state, with_("mapping.embed.weight", 7, 3), r"takes 7 numbers, of which 7 are a class"),
    (public_state, with_("mapping.fc99.weight", 9, 9), r"mapping_layers is 100"),
    (public_state, tenfold, r"a tensor 'synthesis.extra0' of shape \[2\].*; nor 'synthesis.extra1', .* and 1 more"),
    (public_state, with_("synthesis.input.freqs", 2), r"StyleGAN3 generator, which is not read"),
    (dcgan_state, without("main.4.bias"), r"lacks tensor 'main.4.bias'"),
    (dcgan_state, without("main.3.weight"), r"lacks tensor 'main.3.weight' of shape \[I, O, 4, 4\]"),
    (dcgan_state, with_("main.3.weight", 16, 9, 4, 4), r"'main.4.weight' has shape \[8\], expected \[9\]"),
    (dcgan_state, with_("main.13.weight", 3), r"ends with tensors 'main.13.\*'"),
    (dcgan_state, with_("main.0.bias", 16), r"has a tensor 'main.0.bias' of shape \[16\]"),
]


@pytest.mark.parametrize(("base", "change", "message"), CASES)
def test_what_is_missing_or_odd_is_named(
    base: Callable[[], State], change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    torch.save(change(base()), tmp_path / "a.pth")
    for reading in (outline, resolve):
        with pytest.raises(CheckpointError, match=message):
            reading(str(tmp_path / "a.pth"))


def test_a_discriminator_is_refused_by_name(tmp_path: Path) -> None:
    state = {f"main.{n}.weight": torch.zeros(2, 2, 4, 4) for n in (0, 2, 5)}
    torch.save({**state, "main.3.running_mean": torch.zeros(2)}, tmp_path / "netD.pth")
    with pytest.raises(CheckpointError, match="holds a DCGAN's discriminator"):
        resolve(str(tmp_path / "netD.pth"))


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_a_pickle_is_refused_unread_and_says_how_to_save_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ffhq.pkl").write_bytes(pickle.dumps({"G_ema": Harmful()}))
    for reading in (outline, resolve):
        with pytest.raises(CheckpointError, match=r"is a pickle of objects") as caught:
            reading("ffhq.pkl")
        assert "['G_ema'].state_dict(), 'ffhq.pth')" in caught.value.hint
    assert not (tmp_path / "ran").exists()
