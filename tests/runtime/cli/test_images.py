"""Images of `aigc-run generate`: what is written, and what is refused before the engine is loaded."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import write_bundle
from aigc_runtime.bundle.manifest import PipelineInfo
from aigc_runtime.cli.main import run
from aigc_runtime.core.array_session import ArraySession
from aigc_runtime.core.interface import Interface
from aigc_runtime.core.tensors import Array, DimSpec, TensorSpec
from aigc_runtime.errors import InputError
from aigc_runtime.generation.schedules import ScheduleConfig
from aigc_runtime.io.npy import write_npy
from aigc_runtime.pipelines import make_pipeline
from aigc_runtime.proof.bench import bench_generation, bench_step

from .. import toys

NO_CLASSES = replace(toys.DIFFUSION, num_classes=None, null_class=None, class_names=None)
DIMS = (
    DimSpec(name="batch", max=8),
    DimSpec(name="height", min=2, multiple_of=2),
    DimSpec(name="width", min=2, multiple_of=2),
    DimSpec(name="tokens", max=5),
)
CONTEXT = TensorSpec(name="encoder_hidden_states", dtype="float32", shape=("batch", "tokens", 3))


def session(channels: int, *, context: bool) -> ArraySession:
    """A model of any size: half the sample, moved by the mean of its context."""
    image = ("batch", channels, "height", "width")

    def function(values: Mapping[str, Array]) -> dict[str, Array]:
        shift = values["encoder_hidden_states"].mean(axis=(1, 2))[:, None, None, None] if context else np.float32(0.1)
        return {"model_output": np.float32(0.5) * values["sample"] + shift}

    return ArraySession(
        function,
        Interface(
            inputs=(
                TensorSpec(name="sample", dtype="float32", shape=image),
                TensorSpec(name="timestep", dtype="float32", shape=("batch",)),
                *((CONTEXT,) if context else ()),
            ),
            outputs=(TensorSpec(name="model_output", dtype="float32", shape=image),),
            dims=DIMS if context else DIMS[:3],
        ),
    )


class Opened:
    """Stands for opening the engine, and counts how often."""

    def __init__(self, channels: int, *, context: bool) -> None:
        self.channels, self.context, self.times = channels, context, 0

    def __call__(self, bundle: Any = None, *, threads: int | None = None, low_memory: bool = False) -> Any:
        self.times += bundle is not None
        settings = replace(NO_CLASSES, sample_shape=(self.channels, 4, 4))
        return make_pipeline(session(self.channels, context=self.context), settings)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bundle(folder: Path, monkeypatch: pytest.MonkeyPatch, *, channels: int = 1, context: bool = False) -> Opened:
    """Write a bundle of such a model to `b`; its engine is the formula."""
    made = session(channels, context=context)
    manifest, files = toys.toy_manifest("toy_unet")
    shape = (channels, 4, 4)
    files["ref.generation.npy"] = write_npy(np.zeros((2, *shape), np.float32))
    step = manifest.reference.cases[0].steps[0]
    inputs = {spec.name: "ref.0.in.sample.npy" for spec in made.interface.inputs}
    case = replace(manifest.reference.cases[0], steps=(replace(step, inputs=inputs),))
    manifest = replace(
        manifest,
        engines={"model": replace(manifest.engine, interface=toys.stored_interface(made.interface))},
        pipeline=PipelineInfo.of(replace(NO_CLASSES, sample_shape=shape)),
        reference=replace(manifest.reference, cases=(case,)),
    )
    write_bundle(folder / "b", manifest, files)
    opened = Opened(channels, context=context)
    monkeypatch.setattr("aigc_runtime.cli.generate.open_pipeline", opened)
    return opened


def save(path: str, **arrays: Array) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_an_array_of_any_channels_is_written_as_the_pipeline_gives_it(
    channels: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = bundle(folder, monkeypatch, channels=channels)
    request = ["generate", "b", "-o", "x.npy", "--count", "20", "--seed", "5", "--sampler", "ddpm", "--json"]
    assert run(request) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["shape"]) == (20, [20, channels, 4, 4])
    found = np.load("x.npy", allow_pickle=False)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, opened().generate(batch=20, seed=5, sampler="ddpm"))
    assert sorted(path.name for path in folder.iterdir()) == ["b", "x.npy"]


def test_sides_of_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bundle(folder, monkeypatch, channels=3)
    assert run(["generate", "b", "--size", "6x10", "-o", "x.npy"]) == 0
    assert np.load("x.npy").shape == (1, 3, 6, 10)
    assert run(["generate", "b", "--size", "6x10", "--scale", "1", "-o", "x.PNG"]) == 0
    assert "x.PNG: 1 images, 14 x 10 pixels" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [1, 3])
def test_embeddings_reach_the_model(rows: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = bundle(folder, monkeypatch, context=True)
    context = np.random.default_rng(0).standard_normal((rows, 4, 3)).astype(np.float32)
    null = np.zeros((1, 4, 3), np.float32)
    save("e.npz", encoder_hidden_states=context, null_encoder_hidden_states=null)
    request = ["generate", "b", "--embeddings", "e.npz", "--count", "2", "--guidance-scale", "2", "-o", "x.npy"]
    assert run(request) == 0
    expected = opened().generate(
        encoder_hidden_states=np.concatenate([context, context]), null_encoder_hidden_states=null, guidance_scale=2.0
    )
    np.testing.assert_array_equal(np.load("x.npy"), expected)


def test_half_precision_is_widened_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle(folder, monkeypatch, context=True)
    half = np.full((1, 4, 3), 0.1, np.float16)
    save("half.npz", encoder_hidden_states=half)
    save("wide.npz", encoder_hidden_states=half.astype(np.float32))
    for name in ("half", "wide"):
        assert run(["generate", "b", "--embeddings", f"{name}.npz", "-o", f"{name}.npy"]) == 0
    np.testing.assert_array_equal(np.load("half.npy"), np.load("wide.npy"))


ONES = np.ones((1, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"encoder_hidden_states": np.ones((1, 4, 3))}, "element type float64"),
        ({"encoder_hidden_states": ONES.astype(np.int64)}, "has element type int64"),
        ({"encoder_hidden_states": ONES[0]}, "is float32 [4, 3]\n  this model takes float32 [N, T, 3]"),
        ({"encoder_hidden_states": np.ones((1, 4, 7), np.float32)}, "is float32 [1, 4, 7]"),
        ({"encoder_hidden_states": np.ones((0, 4, 3), np.float32)}, "is float32 [0, 4, 3]"),
        ({"encoder_hidden_states": ONES * np.float32("nan")}, "holds NaN or infinity"),
        ({"encoder_hidden_states": np.array([[["a"]]])}, "element type text"),
        ({"null_encoder_hidden_states": ONES}, "has no array 'encoder_hidden_states'"),
        ({"encoder_hidden_states": ONES, "prompt": ONES}, "holds an array 'prompt'"),
        ({"encoder_hidden_states": ONES, "null_encoder_hidden_states": np.ones((2, 4, 3), np.float32)}, "has 2 rows"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused_before_the_engine_is_loaded(
    arrays: dict[str, Array],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = bundle(folder, monkeypatch, context=True)
    save("e.npz", **arrays)
    assert run(["generate", "b", "--embeddings", "e.npz", "-o", "x.npy"]) == 2
    assert message in capsys.readouterr().err
    assert opened.times == 0


def test_files_that_are_no_embeddings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = bundle(folder, monkeypatch, context=True)
    save("good.npz", encoder_hidden_states=ONES)
    data = Path("good.npz").read_bytes()
    Path("cut.npz").write_bytes(data[:-30])
    Path("text.npz").write_text("hello")
    Path("flipped.npz").write_bytes(data.replace(np.float32(1).tobytes() * 2, b"\0" * 8, 1))
    np.savez("pickled.npz", encoder_hidden_states=np.array([{}], dtype=object))
    with zipfile.ZipFile("twice.npz", "w") as archive:
        archive.writestr("encoder_hidden_states.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("encoder_hidden_states.npy", b"")
    os.mkfifo("pipe.npz")
    cases = {
        "nowhere.npz": "no such file",
        "pipe.npz": "is a named pipe, expected a plain file",
        "/dev/zero": "is a device, expected a plain file",
        "b": "is a folder",
        "cut.npz": "is not an .npz of plain arrays",
        "text.npz": "is not an .npz of plain arrays",
        "flipped.npz": "is not an .npz of plain arrays: Bad CRC-32",
        "pickled.npz": "element type object",
        "twice.npz": "holds 'encoder_hidden_states' twice",
    }
    for name, message in cases.items():
        assert run(["generate", "b", "--embeddings", name, "-o", "x.npy"]) == 2
        assert message in capsys.readouterr().err, name
    assert opened.times == 0
    assert not Path("x.npy").exists()


def test_a_file_that_announces_more_than_it_may_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(folder, monkeypatch, context=True)
    monkeypatch.setattr("aigc_runtime.pipelines.embeddings._MAX_BYTES", 2**20)
    np.savez_compressed("bomb.npz", encoder_hidden_states=np.zeros((1, 2**17, 3), np.float32))
    assert Path("bomb.npz").stat().st_size < 4096
    assert run(["generate", "b", "--embeddings", "bomb.npz", "-o", "x.npy"]) == 2
    assert "holds 1,572,992 bytes of arrays\n  at most 1,048,576 are allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("context", "channels", "arguments", "message"),
    [
        (
            False,
            1,
            ["-o", "x.jpg"],
            "cannot write images to 'x.jpg': '.jpg' is not a format that is written\n  give -o F",
        ),
        (False, 1, ["-o", "x"], "cannot write images to 'x': it has no suffix"),
        (
            False,
            4,
            ["-o", "x.png"],
            "a PNG holds 1 or 3 channels, the samples of this model have 4\n  give -o FILE.npy",
        ),
        (False, 2, ["-o", "x.png"], "the samples of this model have 2"),
        (False, 1, ["-o", "x.npy", "--scale", "2"], "--scale is 2 for an array"),
        (False, 1, ["-o", "x.npy", "--embeddings", "e.npz"], "--embeddings was given\n  this model takes none"),
        (False, 1, ["-o", "x.npy", "--size", "3x4"], "height is 3\n  must be at least 2, a multiple of 2"),
        (False, 1, ["-o", "x.npy", "--size", "4"], "--size is '4'\n  give HEIGHTxWIDTH"),
        (False, 1, ["-o", "x.npy", "--size", "4x-4"], "--size is '4x-4'"),
        (
            False,
            1,
            ["-o", "x.npy", "--size", "99999998x99999998"],
            "would hold 9,999,999,600,000,004 numbers\n  at most 268",
        ),
        (
            False,
            1,
            ["-o", "x.npy", "--count", "1000000000"],
            "1,000,000,000 images are requested\n  at most 1,000,000 at",
        ),
        (
            False,
            1,
            ["-o", "x.png", "--count", "1000000"],
            "an image of 24008 x 24008 pixels with 1 channels\n  at most 268",
        ),
        (False, 1, ["-o", "x.png", "--scale", "1000000"], "pixels with 1 channels\n  at most 268,435,456 bytes fit"),
        (False, 1, ["-o", "x.npy", "--class", "1"], "this model has no classes"),
        (True, 1, ["-o", "x.npy"], "this model needs the embeddings of prompts\n  give --embeddings FILE.npz with"),
    ],
)
def test_what_cannot_be_is_refused_before_the_engine_is_loaded(
    context: bool,
    channels: int,
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = bundle(folder, monkeypatch, channels=channels, context=context)
    assert run(["generate", "b", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert opened.times == 0
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_the_foreign_options_of_a_gan(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--size", "--embeddings"):
        assert run(["generate", str(toy_bundles / "toy_gan"), "-o", "x.npy", option, "1x1"]) == 2
        assert f"{option} means nothing to a gan bundle" in capsys.readouterr().err


def test_threads_have_a_limit(toy_bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("generate", "verify", "bench"):
        more = ["-o", "/no/where.npy"] if verb == "generate" else []
        assert run([verb, str(toy_bundles / "toy_gan"), "--threads", str(2**31), *more]) == 2
        assert "threads is 2147483648\n  must be an integer from 1 to 1024" in capsys.readouterr().err


def test_an_array_is_written_whole_or_not_at_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(folder, monkeypatch)
    Path("x.npy").write_bytes(b"old")
    calls: list[int] = []
    run_session = ArraySession.run

    def fails_at_last(made: ArraySession, feeds: Mapping[str, Array], state: Any = None) -> dict[str, Array]:
        calls.append(len(feeds["sample"]))
        if len(calls) > 9:
            raise InputError("enough")
        return run_session(made, feeds, state)

    monkeypatch.setattr(ArraySession, "run", fails_at_last)
    assert run(["generate", "b", "--count", "40", "-o", "x.npy"]) == 2
    assert "enough" in capsys.readouterr().err
    assert Path("x.npy").read_bytes() == b"old"
    assert sorted(path.name for path in folder.iterdir()) == ["b", "x.npy"]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_model_with_cross_attention_can_be_timed(guidance: float) -> None:
    made = session(1, context=True)
    settings = replace(NO_CLASSES, default_guidance_scale=guidance)
    assert bench_step(made, settings, runs=2, warmup=1).runs == 2
    assert bench_generation(made, settings, runs=1).units == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_holds_the_array_as_a_png_reader_reads_it(
    channels: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow: Any = pytest.importorskip("PIL.Image")
    bundle(folder, monkeypatch, channels=channels)
    free = replace(NO_CLASSES, sample_shape=(channels, 4, 4), schedule=ScheduleConfig(clip_sample=False))

    def opened(*_: Any, **__: Any) -> Any:
        return make_pipeline(session(channels, context=False), free)

    monkeypatch.setattr("aigc_runtime.cli.generate.open_pipeline", opened)
    for name in ("x.npy", "x.png"):
        more = ["--scale", "1"] if name == "x.png" else []
        assert run(["generate", "b", "--count", "5", "--seed", "3", "-o", name, *more]) == 0
    numbers = np.load("x.npy")
    assert np.abs(numbers).max() > 1.5  # beyond what a picture holds
    expected = np.rint(np.clip((numbers.astype(np.float64) + 1) * 127.5, 0, 255)).astype(np.uint8)
    with pillow.open("x.png") as image:
        grid = np.atleast_3d(np.asarray(image))
    assert grid.shape == (14, 20, channels)  # two rows of three, two pixels around each
    for i in range(5):
        top, left = 2 + 6 * (i // 3), 2 + 6 * (i % 3)
        np.testing.assert_array_equal(grid[top : top + 4, left : left + 4], expected[i].transpose(1, 2, 0))
