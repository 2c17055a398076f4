"""Opening a bundle: the device is asked first, the bytes are verified, and only then does the library see them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_runtime.backends.trt import session as trt
from aigc_runtime.backends.trt.build_info import EngineBuild
from aigc_runtime.backends.trt.cuda import Cuda
from aigc_runtime.backends.trt.library import Log, library_of, load_library
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.core.shape_profiles import ShapeProfile
from aigc_runtime.device.probe import Device, Gpu, probe_device
from aigc_runtime.errors import BundleError, EngineError, EngineMissingError, InputError
from aigc_runtime.opening import open_pipeline, open_session
from aigc_runtime.proof.verify import verify_bundle

from ... import toys
from ...keys import Pair
from .rig import IMAGE_PROFILES, LM_PROFILES, UNET, engine_build, leaks, lm
from .simulated_gpu import SimulatedGpu
from .simulated_tensorrt import Plan, simulated_tensorrt

ENGINE = b"ftrt simulated engine of a toy"
DEVICE = Device(
    runtime="0.1.0",
    platform="linux-x86_64",
    python="3.11.7",
    driver_cuda="13.0",
    gpus=(Gpu(name="NVIDIA Simulated 1", compute_capability="8.6", memory_bytes=10**10),),
    packages={"tensorrt_rtx": "1.7.1.116", "cuda-bindings": "13.0.1"},
)


def write_rtx(folder: Path, name: str, build: EngineBuild | None = None, kind: str = "tensorrt-rtx") -> Path:
    """A toy's bundle, around an engine that the simulated library knows."""
    manifest, files = toys.toy_manifest(name)
    dims = LM_PROFILES[name.removeprefix("toy_lm_")] if name.startswith("toy_lm") else IMAGE_PROFILES
    profiles = tuple(ShapeProfile(name=f"profile-{i}", dims=d) for i, d in enumerate(dims))
    info = replace(manifest.engine, kind=kind, file="model.engine", build=build or engine_build(profiles, rtx=True))
    del files["model.onnx"]
    manifest = replace(manifest, engines={"model": info}, target="tensorrt-rtx")
    write_bundle(folder / name, manifest, {**files, "model.engine": ENGINE})
    return folder / name


class Machine:
    """A machine with the simulated device, in place of this one."""

    def __init__(self, patch: pytest.MonkeyPatch, plan: Plan, device: Device = DEVICE, devices: int = 1) -> None:
        self.gpu = SimulatedGpu(devices=devices)
        self.module = simulated_tensorrt(self.gpu, {ENGINE: plan}, rtx=True)
        patch.setattr(trt, "probe_device", lambda *_: device)
        patch.setattr(trt, "load_library", lambda build: library_of(self.module))
        patch.setattr(trt, "load_cuda", lambda ordinal: Cuda(self.gpu, ordinal))


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "aigc-runtime"


@pytest.mark.parametrize("name", ["toy_lm_growing", "toy_lm_buffer", "toy_unet"])
def test_a_bundle_is_verified_on_the_device(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = lm(name.removeprefix("toy_lm_")) if name.startswith("toy_lm") else UNET
    machine = Machine(monkeypatch, toy.plan())
    bundle = Bundle.open(write_rtx(tmp_path, name))
    session = open_session(bundle)
    assert verify_bundle(bundle, session).passed
    session.close()
    assert machine.module.sim_deserialized == [ENGINE]
    assert leaks(machine.gpu) == []


def test_without_a_device_nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(write_rtx(tmp_path, "toy_unet"))
    machine = Machine(monkeypatch, UNET.plan(), replace(DEVICE, gpus=()))
    with pytest.raises(EngineError, match="does not run here: GPU: none that a driver knows"):
        open_session(bundle)
    # The driver knows a device, and CUDA does not: asked again before a Runtime is made, which would crash.
    machine = Machine(monkeypatch, UNET.plan(), devices=0)
    with pytest.raises(EngineError, match="cannot find a CUDA device: cudaErrorNoDevice"):
        open_session(bundle)
    assert machine.gpu.calls == ["cudaGetDeviceCount"]
    assert machine.module.sim_deserialized == []


def test_an_engine_that_changed_after_opening_never_reaches_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, UNET.plan())
    folder = write_rtx(tmp_path, "toy_unet")
    bundle = Bundle.open(folder)
    (folder / "model.engine").write_bytes(ENGINE[:-1] + b"!")
    with pytest.raises(BundleError, match=r"'model\.engine' changed after the bundle was opened"):
        open_session(bundle)
    with pytest.raises(BundleError, match="SHA-256"):
        open_session(Bundle.open(folder))
    assert machine.module.sim_deserialized == []
    (folder / "model.engine").write_bytes(ENGINE)
    open_session(bundle).close()
    assert machine.module.sim_deserialized == [ENGINE], "the spy sees what does arrive"


def test_only_engines_of_a_trusted_key_reach_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stranger = Pair(1), Pair(2)
    machine = Machine(monkeypatch, UNET.plan())
    folder = write_rtx(tmp_path, "toy_unet")
    monkeypatch.setenv("AIGC_TRUSTED_KEYS", str(ours.write_pem(tmp_path / "public.pem")))
    for spoil, message in (
        (lambda: None, "the bundle is not signed"),
        (lambda: stranger.sign_bundle(folder), "which is not trusted here"),
        (lambda: (folder / "manifest.sig").write_bytes(ours.sign(b"{}\n")), "does not belong to this manifest"),
    ):
        spoil()
        with pytest.raises(BundleError, match=message):
            open_session(Bundle.open(folder))
        with pytest.raises(BundleError, match=message):
            open_session(Bundle.open(folder, trusted_keys=[ours.public]))
        with pytest.raises(BundleError, match=message):
            open_pipeline(folder, trusted_keys=[ours.public])
    assert machine.module.sim_deserialized == []
    assert machine.gpu.calls == []
    ours.sign_bundle(folder)
    open_session(Bundle.open(folder)).close()
    assert machine.module.sim_deserialized == [ENGINE], "the spy sees what does arrive"


def test_of_several_devices_the_one_that_fits_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Gpu(name="old", compute_capability="7.5", memory_bytes=10**10)
    machine = Machine(monkeypatch, UNET.plan(), replace(DEVICE, gpus=(old, *DEVICE.gpus)), devices=2)
    session = open_session(Bundle.open(write_rtx(tmp_path, "toy_unet")))
    step = Bundle.open(tmp_path / "toy_unet").manifest.reference.cases[0].steps[0]
    bundle = Bundle.open(tmp_path / "toy_unet")
    session.run({name: bundle.array(file) for name, file in step.inputs.items()})
    assert {block.device for block in machine.gpu.blocks.values()} == {1}


def test_a_plan_that_does_not_load_carries_the_librarys_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, UNET.plan())
    machine.module = simulated_tensorrt(machine.gpu, {}, rtx=True)
    with pytest.raises(EngineError, match=r"cannot load the engine: the plan is corrupt\nexport it again"):
        open_session(Bundle.open(write_rtx(tmp_path, "toy_unet")))


def test_a_manifest_that_names_another_flavor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = engine_build((ShapeProfile(name="p", dims={}),), rtx=False)
    device = replace(DEVICE, packages={"tensorrt_rtx": "10.3.0"})
    Machine(monkeypatch, UNET.plan(), device)
    with pytest.raises(EngineError, match="its tensorrt-rtx engine was built by tensorrt"):
        open_session(Bundle.open(write_rtx(tmp_path, "toy_unet", build)))


def test_threads_are_for_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, UNET.plan())
    bundle = Bundle.open(write_rtx(tmp_path, "toy_unet"))
    open_session(bundle, threads=4).close()
    with pytest.raises(InputError, match="threads is 0"):
        open_session(bundle, threads=0)


def test_on_this_machine_the_answer_is_typed(tmp_path: Path) -> None:
    if probe_device().gpus:
        pytest.skip("this machine has a GPU; tests marked gpu run there")
    with pytest.raises(EngineError, match=r"the engine does not run here: .*GPU: none that a driver knows"):
        open_session(Bundle.open(write_rtx(tmp_path, "toy_unet")))


# -- packages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rtx", "changes", "missing", "line"),
    [
        (True, {}, ["tensorrt_rtx"], "pip install 'aigc-runtime[rtx]' tensorrt-rtx==1.7.1.116"),
        (False, {}, ["tensorrt"], "pip install 'aigc-runtime[tensorrt]' tensorrt==10.3.0"),
        (
            False,
            {"version_compatible": True},
            ["tensorrt", "tensorrt_lean"],
            "pip install 'aigc-runtime[tensorrt]' tensorrt==10.3.0",
        ),
    ],
)
def test_a_missing_library_gives_its_install_line(
    rtx: bool, changes: dict[str, Any], missing: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EngineMissingError) as caught:
        load_library(engine_build((ShapeProfile(name="p", dims={}),), rtx=rtx, **changes))
    assert caught.value.hint == line
    assert all(f"{name}: " in caught.value.message for name in missing)


def test_the_lean_runtime_runs_version_compatible_engines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lean = simulated_tensorrt(SimulatedGpu(), {})
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean)
    profiles = (ShapeProfile(name="p", dims={}),)
    assert load_library(engine_build(profiles, version_compatible=True)).module is lean
    with pytest.raises(EngineMissingError):
        load_library(engine_build(profiles))


def test_missing_cuda_bindings_give_their_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    from aigc_runtime.backends.trt.cuda import load_cuda

    with pytest.raises(EngineMissingError, match="needs the package cuda-bindings") as caught:
        load_cuda()
    assert caught.value.hint == "pip install cuda-bindings"


def test_the_log_keeps_the_last_errors_once() -> None:
    log = Log()
    for text in ("a", "b", "a"):
        log.add(text)
    assert log.take() == "a; b"
    assert log.take() == "no reason given"


# -- kernels that were compiled here --------------------------------------------------------------------------------


def opened(folder: Path) -> tuple[Any, dict[str, np.ndarray]]:
    bundle = Bundle.open(folder)
    step = bundle.manifest.reference.cases[0].steps[0]
    return open_session(bundle), {name: bundle.array(file) for name, file in step.inputs.items()}


def test_compiled_kernels_are_kept_beside_the_bundle_and_read_again(
    tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, UNET.plan())
    folder = write_rtx(tmp_path, "toy_unet")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    session, feeds = opened(folder)
    assert not cache_home.exists()
    session.run(feeds)
    (file,) = cache_home.iterdir()
    sha = json.loads(before["manifest.json"])["files"]
    digest = next(entry["sha256"] for entry in sha if entry["path"] == "model.engine")
    assert file.name == f"{digest}-nvidia-simulated-1-8.6.cache"
    session.close()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    session, feeds = opened(folder)
    assert machine.module.sim_engines[-1].sim_caches[0].sim_blob == b"kernels for True"
    written = file.stat().st_mtime_ns, file.stat().st_ino
    session.run(feeds)
    session.close()
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == written, "nothing new, nothing written"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"),
        lambda file: file.write_bytes(b"kernels for somebody"),
        lambda file: file.chmod(0o666),
        lambda file: (file.rename(file.with_suffix(".real")), file.symlink_to(file.with_suffix(".real"))),
        lambda file: file.with_suffix(".other").hardlink_to(file),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["empty", "cut", "changed", "foreign", "writable by others", "a link", "a hard link", "a folder"],
)
def test_a_file_of_kernels_that_cannot_be_trusted_counts_as_absent(
    spoil: Any, tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, UNET.plan())
    folder = write_rtx(tmp_path, "toy_unet")
    session, feeds = opened(folder)
    session.run(feeds)
    session.close()
    (file,) = cache_home.iterdir()
    spoil(file)
    session, _ = opened(folder)
    assert machine.module.sim_engines[-1].sim_caches[0].sim_blob == b""
    session.run(feeds)
    session.close()
    if file.is_dir():
        return  # it runs all the same, and compiles again each time
    session, _ = opened(folder)
    assert machine.module.sim_engines[-1].sim_caches[0].sim_blob == b"kernels for True", "it was made again"
    session.close()


def test_kernels_are_kept_under_any_umask(tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, UNET.plan())
    folder = write_rtx(tmp_path, "toy_unet")
    before = os.umask(0)
    try:
        session, feeds = opened(folder)
        session.run(feeds)
        session.close()
    finally:
        os.umask(before)
    session, _ = opened(folder)
    assert machine.module.sim_engines[-1].sim_caches[0].sim_blob == b"kernels for True"
    session.close()


def test_a_cache_that_the_library_rejects_is_made_again(
    tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigc_runtime.backends.trt.cache import read_cache, write_cache

    Machine(monkeypatch, UNET.plan())
    folder = write_rtx(tmp_path, "toy_unet")
    session, feeds = opened(folder)
    session.run(feeds)
    session.close()
    (file,) = cache_home.iterdir()
    write_cache(file, b"of another driver")
    session, _ = opened(folder)
    session.run(feeds)
    session.close()
    assert read_cache(file) == b"kernels for True"


def test_a_cache_folder_that_cannot_be_written_does_no_harm(
    tmp_path: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch, UNET.plan())
    cache_home.parent.write_bytes(b"a file in the way")
    session, feeds = opened(write_rtx(tmp_path, "toy_unet"))
    assert session.run(feeds)
    session.close()
    assert cache_home.parent.read_bytes() == b"a file in the way"


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aigc_runtime.backends.trt.cache import cache_path

    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/is/ignored"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_path("ab", "GPU/../x 9.0") == tmp_path / ".cache" / "aigc-runtime" / "ab-gpu-..-x-9.0.cache"
