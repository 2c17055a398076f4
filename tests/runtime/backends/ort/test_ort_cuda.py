"""A provider of ONNX Runtime that was asked for is the one that runs, or an error says why not. No GPU is needed.

What a CUDA build of ONNX Runtime does is simulated on the session of a CPU build; the placement of nodes, and a
provider that takes none of them, are ONNX Runtime's own (its Azure provider has no kernels at all).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from aigc_runtime.backends.base import EngineProof
from aigc_runtime.backends.ort import binding as ort_binding
from aigc_runtime.backends.ort import session as ort_backend
from aigc_runtime.backends.ort.open import check_placement, open_native, unavailable
from aigc_runtime.backends.ort.providers import PROVIDERS, OrtBuild, Provider
from aigc_runtime.backends.ort.session import OrtSession
from aigc_runtime.bundle.bundle import Bundle, write_bundle
from aigc_runtime.bundle.engine_info import EngineInterface
from aigc_runtime.bundle.manifest import EngineInfo, Manifest
from aigc_runtime.bundle.manifest_file import dump_manifest, parse_manifest
from aigc_runtime.cli.main import run
from aigc_runtime.device.probe import Device, Gpu
from aigc_runtime.errors import BundleError, ConfigError, EngineError, EngineMissingError, InputError, UnknownNameError
from aigc_runtime.opening import open_session
from aigc_runtime.preflight import check_device

from ... import toys

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
GPU = Gpu(name="some GPU", compute_capability="8.6", memory_bytes=12 * 10**9)
DEVICE = Device(
    runtime="0.1.0",
    platform="linux-x86_64",
    python="3.11.9",
    driver_cuda="13.0",
    gpus=(GPU,),
    packages={"onnxruntime-gpu": "1.31.1"},
)
NO_GPU = replace(DEVICE, gpus=(), driver_cuda=None, packages={"onnxruntime": "1.32.0"})


tells_placement = pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason=f"ONNX Runtime {onnxruntime.__version__} does not tell where nodes run",
)


def graph(name: str) -> bytes:
    return (toys.DATA / f"{name}.onnx").read_bytes()


def gan_session(**changes: Any) -> OrtSession:
    return OrtSession(graph("toy_gan"), toys.gan_session().interface, threads=1, **changes)


# The manifest


@pytest.fixture
def cuda_bundle(tmp_path: Path) -> Path:
    """A whole bundle that asks for CUDA."""
    manifest, files = toys.toy_manifest("toy_gan")
    info = replace(manifest.engine, build=OrtBuild(provider="cuda"), proof=EngineProof(parity="graph"))
    manifest = replace(manifest, engines={"model": info}, target="ort-cuda")
    write_bundle(tmp_path / "cuda", manifest, files)
    return tmp_path / "cuda"


def test_a_provider_in_the_manifest(cuda_bundle: Path) -> None:
    data = (cuda_bundle / "manifest.json").read_bytes()
    manifest = parse_manifest(data)
    assert dump_manifest(manifest) == data
    assert json.loads(data)["engines"]["model"]["proof"] == {"parity": "graph", "proven_on": []}
    assert json.loads(data)["engines"]["model"]["build"] == {
        "provider": "cuda", "min_version": "", "rows_apart": False, "byte_products": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"build": {"provider": "rocm", "min_version": "", "rows_apart": False, "byte_products": False}},
            r"engines\.model: build\.provider is 'rocm'\nvalid: cpu, cuda",
        ),
        ({"build": {}}, r"build\.provider, min_version, rows_apart, byte_products are missing"),
        (
            {"build": {"provider": "cuda", "min_version": "", "rows_apart": False, "byte_products": False, "id": 1}},
            r"build\.id is not a known field",
        ),
        ({"build": "cuda"}, "a build of type str"),
        ({"proof": {"parity": "none", "proven_on": []}}, r"engines\.model\.proof\.parity is 'none'"),
        ({"proof": {"parity": "graph"}}, r"proof\.proven_on is missing"),
    ],
)
def test_builds_that_no_reader_takes(changes: dict[str, object], message: str, cuda_bundle: Path) -> None:
    value = json.loads((cuda_bundle / "manifest.json").read_bytes())
    value["engines"]["model"].update(changes)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(value).encode())


def test_an_engine_of_another_kind_has_another_build(cuda_bundle: Path) -> None:
    interface = EngineInterface(inputs=(), outputs=(), dims=(), state=None)
    with pytest.raises(ConfigError, match="kind 'tensorrt' has a build of type OrtBuild"):
        EngineInfo(kind="tensorrt", file="model.engine", interface=interface, build=OrtBuild(provider="cuda"))
    value = json.loads((cuda_bundle / "manifest.json").read_bytes())
    value["engines"]["model"]["kind"] = "tensorrt"
    with pytest.raises(
        BundleError, match=r"engines\.model: build\.provider, min_version, rows_apart, byte_products are not known"
    ):
        parse_manifest(json.dumps(value).encode())


# Preflight


def manifest_of(folder: Path) -> Manifest:
    return Bundle.open(folder).manifest


def test_a_device_that_will_do(cuda_bundle: Path) -> None:
    found = check_device(manifest_of(cuda_bundle), DEVICE)
    assert (found.runs, found.gpu) == (True, "some GPU")
    assert [f.subject for f in found.findings] == ["engine", "libraries", "GPU"]


@pytest.mark.parametrize(
    ("device", "wrong"),
    [
        (replace(DEVICE, packages={"onnxruntime": "1.32.0"}), {"engine": "onnxruntime-gpu is not installed"}),
        (replace(DEVICE, gpus=()), {"GPU": "none that a driver knows"}),
        (NO_GPU, {"engine": "onnxruntime-gpu is not installed", "GPU": "none that a driver knows"}),
        (replace(NO_GPU, packages=None), {"GPU": "none that a driver knows"}),
    ],
)
def test_devices_that_will_not(device: Device, wrong: dict[str, str], cuda_bundle: Path) -> None:
    found = check_device(manifest_of(cuda_bundle), device)
    assert {f.subject: f.found for f in found.findings if f.passed is False} == wrong
    assert all(f.fix for f in found.findings if f.passed is False)


def test_doctor_and_info_speak_of_it(
    cuda_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aigc_runtime.cli.doctor.probe_device", lambda *_: NO_GPU)
    assert run(["doctor", str(cuda_bundle)]) == 5
    text = capsys.readouterr().out
    assert "FAIL  engine: onnxruntime-gpu is not installed" in text
    assert "pip install 'aigc-runtime[ort-gpu]'" in text
    assert "FAIL  GPU: none that a driver knows" in text
    assert run(["info", str(cuda_bundle)]) == 0
    text = capsys.readouterr().out
    assert "runs on    cuda" in text
    assert "proven     its graph, on a CPU; the engine was not run" in text


# Opening


class FakeOrt:
    """ONNX Runtime as it is installed, said to be built with CUDA.

    Args:
        session: what becomes of a session that was opened on the CPU.
    """

    def __init__(self, session: Callable[[Any], Any] = lambda session: session) -> None:
        self.session = session
        self.asked: list[Any] = []
        self.preloaded = 0
        self.severities: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def set_default_logger_severity(self, severity: int) -> None:
        self.severities.append(severity)

    def preload_dlls(self) -> None:
        self.preloaded += 1
        print("Failed to load libcudnn.so.9")

    def InferenceSession(self, model: bytes, options: Any, providers: Any, enable_fallback: int) -> Any:
        self.asked = [providers, enable_fallback]
        assert self.severities[-1:] == [3]
        return self.session(onnxruntime.InferenceSession(model, options, providers=[CPU], enable_fallback=0))


class Placed:
    """A session of which some nodes are said to run on CUDA.

    Args:
        session: a real one.
        on_cpu: operators that are not.
    """

    def __init__(self, session: Any, on_cpu: Sequence[str] = ()) -> None:
        self.session, self.on_cpu = session, on_cpu

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        nodes = [n for part in self.session.get_provider_graph_assignment_info() for n in part.get_nodes()]
        split = {CUDA: [n for n in nodes if n.op_type not in self.on_cpu]}
        split[CPU] = [n for n in nodes if n.op_type in self.on_cpu]
        return [SimpleNamespace(ep_name=k, get_nodes=lambda v=v: v) for k, v in split.items()]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeOrt]:
    """pretend(session): a machine with a GPU and a CUDA build of ONNX Runtime whose sessions become that."""

    def install(session: Callable[[Any], Any] = lambda session: session, device: Device = DEVICE) -> FakeOrt:
        fake = FakeOrt(session)
        monkeypatch.setattr(ort_backend, "import_onnxruntime", lambda _provider: fake)
        monkeypatch.setattr("aigc_runtime.backends.ort.open.probe_device", lambda *_: device)
        return fake

    return install


def test_a_build_without_the_provider_gives_the_install_line(
    cuda_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built with CUDA")
    with pytest.raises(EngineMissingError, match=rf"has no {CUDA}, only .*{CPU}") as caught:
        open_session(Bundle.open(cuda_bundle))
    assert "pip install 'aigc-runtime[ort-gpu]'" in caught.value.hint
    assert run(["verify", str(cuda_bundle)]) == 5
    assert "aigc-runtime[ort-gpu]" in capsys.readouterr().err


def test_a_missing_package_gives_the_provider_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineMissingError, match=r"aigc-runtime\[ort-gpu\]"):
        gan_session(device="cuda")
    with pytest.raises(EngineMissingError, match=r"aigc-runtime\[ort\]"):
        gan_session()


def test_a_machine_without_a_device(pretend: Callable[..., FakeOrt]) -> None:
    fake = pretend(device=NO_GPU)
    with pytest.raises(EngineError, match="no driver here knows a CUDA device"):
        gan_session(device="cuda")
    assert fake.asked == []  # nothing was opened
    assert unavailable(fake, PROVIDERS["cpu"]) is None


@pytest.mark.parametrize("device_id", [1, -1, True])
def test_a_device_that_is_not_there(device_id: int, pretend: Callable[..., FakeOrt]) -> None:
    pretend()
    with pytest.raises(InputError, match=r"there is no CUDA device .*\nvalid: 0: some GPU"):
        gan_session(device="cuda", device_id=device_id)


def test_a_provider_that_is_dropped_in_silence(
    pretend: Callable[..., FakeOrt], capsys: pytest.CaptureFixture[str]
) -> None:
    fake = pretend()
    with pytest.raises(EngineError, match=rf"asked for {CUDA}, ONNX Runtime .* runs {CPU}: it drops a provider"):
        gan_session(device="cuda")
    # Products of floats, no second try on the CPU, libraries from where pip put them, standard output clean.
    assert fake.asked == [[(CUDA, {"use_tf32": "0", "device_id": "0"})], 0]
    assert fake.preloaded == 1
    assert fake.severities == [3, 2]  # its warning of a plugin is left out, and others' are not
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "Failed to load libcudnn.so.9\n")


@tells_placement
def test_nodes_that_run_on_the_cpu(pretend: Callable[..., FakeOrt]) -> None:
    pretend(lambda session: Placed(session, ["Tanh", "Add"]))
    with pytest.raises(EngineError, match=rf"{CUDA} was asked for and runs 4 of 6 nodes; elsewhere: Tanh ''"):
        gan_session(device="cuda")


@tells_placement
def test_shapes_may_be_computed_on_the_host(pretend: Callable[..., FakeOrt]) -> None:
    pretend(lambda session: Placed(session, ["Shape", "Squeeze", "Concat"]))
    kind = "growing"
    session = OrtSession(graph("toy_lm_growing"), toys.lm_session(kind).interface, threads=1, device="cuda")
    assert session.placement == {CUDA: 17, CPU: 4}


@tells_placement
def test_a_graph_wholly_on_the_device(pretend: Callable[..., FakeOrt], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = pretend(Placed)

    def asked(_ort: Any) -> bool:
        raise AssertionError("the CPU's kernels for 8 bits do not concern another device")

    monkeypatch.setattr("aigc_runtime.backends.ort.open.products_saturate", asked)
    assert gan_session(device="cuda").placement == {CUDA: 6}
    assert fake.asked == [[(CUDA, {"use_tf32": "0", "device_id": "0"})], 0]


def test_an_onnxruntime_that_does_not_say_is_not_believed(pretend: Callable[..., FakeOrt]) -> None:
    class Old:
        def __init__(self, session: Any) -> None:
            self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

        def get_providers(self) -> list[str]:
            return [CUDA, CPU]

    pretend(Old)
    with pytest.raises(EngineError, match="does not say which provider runs a node"):
        gan_session(device="cuda")


def test_an_unknown_device() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown device 'cdua'\nvalid: cpu, cuda\. Did you mean 'cuda'"):
        gan_session(device="cdua")


@tells_placement
@pytest.mark.parametrize("name", ["toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan"])
def test_a_provider_without_kernels_is_refused_for_real(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session of such a provider lists it first, and runs all on the CPU: ONNX Runtime's own silent fallback."""
    azure = "AzureExecutionProvider"
    if azure not in onnxruntime.get_available_providers():
        pytest.skip(f"this ONNX Runtime was built without {azure}")
    monkeypatch.setattr("aigc_runtime.backends.ort.open.probe_device", lambda *_: DEVICE)
    provider = Provider(name="azure", ort_name=azure, packages=(), install="")
    plain = replace(provider, options={})
    monkeypatch.setattr("aigc_runtime.backends.ort.open._check_device_id", lambda _id: None)
    with pytest.raises(EngineError, match=rf"{azure} was asked for and runs 0 of \d+ nodes; elsewhere: ") as caught:
        open_native(without_options(onnxruntime), graph(name), provider=plain)
    assert "Shape" not in caught.value.message


def without_options(ort: Any) -> Any:
    """The Azure provider takes no options, `device_id` among them."""

    class Module:
        def __getattr__(self, name: str) -> Any:
            return getattr(ort, name)

        def InferenceSession(self, model: bytes, options: Any, providers: Any, enable_fallback: int) -> Any:
            return ort.InferenceSession(model, options, providers=[n for n, _ in providers], enable_fallback=0)

    return Module()


def test_the_option_that_onnxruntime_has_for_it_refuses_shapes_too() -> None:
    """Why the placement is read: with the option, one node on the CPU is one too many, whatever it computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"):
        onnxruntime.InferenceSession(graph("toy_lm_growing"), options, providers=["AzureExecutionProvider"])


@tells_placement
def test_the_placement_check_passes_on_the_cpu_itself() -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(graph("toy_gan"), options, providers=[CPU])
    assert check_placement(onnxruntime, session, PROVIDERS["cpu"]) == {CPU: 6}


# The way of values to a device and back, on the CPU


def bound_session(bundle: Bundle, bound: bool) -> OrtSession:
    m = bundle.manifest
    return OrtSession(bundle.read(m.engine.file), m.interface, threads=1, bound=bound)


@pytest.mark.parametrize("name", ["toy_lm_growing", "toy_lm_buffer", "toy_unet", "toy_gan"])
def test_bound_and_plain_runs_are_equal(name: str, toy_bundles: Path) -> None:
    bundle = Bundle.open(toy_bundles / name)
    steps = bundle.manifest.reference.cases[0].steps
    feeds = [{key: bundle.array(file) for key, file in step.inputs.items()} for step in steps]
    rows = len(next(iter(feeds[0].values())))
    results = []
    for bound in (False, True):
        session = bound_session(bundle, bound)
        state = session.new_state(rows)
        results.append([session.run(f, state) for f in [*feeds, *feeds]])
    for plain, other in zip(*results, strict=True):
        assert plain.keys() == other.keys()
        for key, array in plain.items():
            np.testing.assert_array_equal(array, other[key])


class CountingValue:
    """Stands for `OrtValue`: counts what is made of arrays, and what is read back."""

    made: list[tuple[int, ...]] = []

    @classmethod
    def ortvalue_from_numpy(cls, array: Any, device: str, device_id: int) -> Any:
        cls.made.append(array.shape)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array, device, device_id)

    @classmethod
    def ortvalue_from_shape_and_type(cls, shape: Any, kind: Any, device: str, device_id: int) -> Any:
        cls.made.append(tuple(shape))
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, device, device_id)


@pytest.mark.parametrize("kind", ["growing", "buffer"])
def test_carried_state_is_never_an_array_between_steps(
    kind: str, toy_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = bound_session(Bundle.open(toy_bundles / f"toy_lm_{kind}"), True)
    monkeypatch.setattr(CountingValue, "made", [])
    session._binder = replace(session._binder, ort=SimpleNamespace(OrtValue=CountingValue))
    state = session.new_state(1)
    assert len(CountingValue.made) == 1  # the empty state
    first = state.values["past_value_0"]
    for token in (1, 2, 3):
        feeds = toys.lm_feeds([[token]])
        logits = session.run(feeds, state)["logits"]
    assert logits[0, -1].argmax() == 6
    later = CountingValue.made[1:]
    assert all(len(shape) < 4 for shape in later if shape != (1, 1, 256))  # no value of the state's rank was made again
    if kind == "growing":
        assert state.values["past_value_0"].shape() == [1, 1, 3, 1]
    else:
        assert state.values["past_value_0"] is first  # in place
        assert len(later) == 5  # one plan: three inputs, the length, the result


def test_a_plan_binds_its_inputs_again_where_a_device_would_have_copied_them(toy_bundles: Path) -> None:
    """ONNX Runtime may copy an input while it is bound; a value that is updated later would not be seen."""
    bundle = Bundle.open(toy_bundles / "toy_lm_buffer")
    session = bound_session(bundle, True)
    state = session.new_state(1)
    feeds = toys.lm_feeds([[7]])
    session.run(feeds, state)
    (plan,) = state.plans.values()
    assert isinstance(plan, ort_binding.Plan)
    bound: list[str] = []
    real = plan._binding

    class Spy:
        def bind_ortvalue_input(self, name: str, value: Any) -> None:
            bound.append(name)
            real.bind_ortvalue_input(name, value)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    plan._binding = Spy()
    plan._native = SimpleNamespace(run_with_iobinding=lambda _binding: session.native.run_with_iobinding(real))
    assert session.run(feeds, state)["logits"][0, -1].argmax() == 14
    assert sorted(bound) == ["input_ids", "logits_to_keep", "pad_length", "past_length", "past_value_0"]
