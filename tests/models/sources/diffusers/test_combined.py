"""The weights of several files as those of one model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from aigc_models.sources.diffusers.combined import CombinedWeights
from aigc_models.weights.stored_weights import StoredWeights


def made(folder: Path, **changes: torch.Tensor) -> CombinedWeights:
    save_file({"w.a": torch.arange(3.0), **changes}, folder / "one.safetensors")
    save_file({"w.a": torch.ones(2, 2), "b": torch.zeros(1)}, folder / "two.safetensors")
    return CombinedWeights({n: StoredWeights(folder / f"{n}.safetensors") for n in ("one", "two")})


def test_tensors_stand_under_the_name_of_their_component(tmp_path: Path) -> None:
    found = made(tmp_path)
    assert sorted(found) == ["one.w.a", "two.b", "two.w.a"]
    assert len(found) == 3
    assert torch.equal(found["one.w.a"], torch.arange(3.0))
    assert {n: tuple(t.shape) for n, t in found.described().items()} == {
        "one.w.a": (3,),
        "two.b": (1,),
        "two.w.a": (2, 2),
    }
    place = torch.empty(2, 2)
    read = dict(found.stream(lambda name: place if name == "two.w.a" else None))
    assert read.keys() == set(found)
    assert read["two.w.a"] is place


def test_the_digest_is_of_every_file(tmp_path: Path) -> None:
    found = made(tmp_path).sha256
    digests = {n: hashlib.sha256((tmp_path / f"{n}.safetensors").read_bytes()).hexdigest() for n in ("one", "two")}
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    assert found == hashlib.sha256(lines.encode()).hexdigest()
    assert made(tmp_path, c=torch.ones(1)).sha256 != found
