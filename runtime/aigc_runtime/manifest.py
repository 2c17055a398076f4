"""The manifest of a bundle: what the engine takes and gives, how it is used, and how it is proven.

The format is specified in docs/bundle.md. Field names here are the names in the file.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from aigc_runtime.class_names import check_class_names
from aigc_runtime.engine_info import EngineInfo
from aigc_runtime.errors import AigcError, BundleError, ConfigError
from aigc_runtime.interface import Interface
from aigc_runtime.manifest_checks import MAX_COUNT, MAX_GUIDANCE_SCALE, MAX_STEPS, check_meaning, check_range
from aigc_runtime.origin import Origin
from aigc_runtime.samplers import SAMPLERS
from aigc_runtime.schedules import ScheduleConfig
from aigc_runtime.settings import from_json, to_json
from aigc_runtime.strict_json import loads_strict
from aigc_runtime.tensors import DimSpec, StateSpec, TensorSpec
from aigc_runtime.tolerances import Tolerances

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MAX_MANIFEST_BYTES",
    "DiffusionSettings",
    "EngineInfo",
    "FileInfo",
    "GanSettings",
    "Manifest",
    "Pipeline",
    "QualityResult",
    "Reference",
    "ReferenceCase",
    "ReferenceGeneration",
    "ReferenceStep",
    "TextSettings",
    "Tolerances",
    "check_file_name",
    "dump_manifest",
    "manifest_json",
    "parse_manifest",
]

FORMAT = "aigc-bundle"
FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_FILE_BYTES = 2**50
MAX_SAMPLE = 2**28
"""Numbers in one sample: 1 GiB of float32."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OWN = ("manifest.json", "manifest.sig")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def check_file_name(name: str) -> None:
    """Refuse a name that is not a plain file name on every system.

    Raises:
        ConfigError: anything but letters, digits, `.`, `_` and `-`; a leading `.` or `-`; a trailing `.`; a name that
            Windows reserves; more than 128 characters; `manifest.json` itself, or its signature.
    """
    if not _NAME.fullmatch(name) or name.endswith(".") or _RESERVED.fullmatch(name) or name.lower() in _OWN:
        raise ConfigError(
            f"file name {name!r} is not allowed in a bundle",
            hint="letters, digits, '.', '_' and '-', at most 128, not a reserved name",
        )


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """One file of the bundle: its plain name, its size in bytes and its SHA-256 in lower-case hexadecimal."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_file_name(self.path)
        if not 0 <= self.size <= MAX_FILE_BYTES:
            raise ConfigError(f"file {self.path!r} has size {self.size}")
        if not _DIGEST.fullmatch(self.sha256):
            raise ConfigError(f"file {self.path!r} has digest {self.sha256!r}", hint="64 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How the text pipeline uses the engine.

    Attributes:
        tokenizer: `{"kind": "bytes"}`.
        vocab_size: width of the logits.
        context_length: most tokens, prompt and generated together.
        eos_token_id: the token that ends a text, if there is one.
        pad_token_id: the token that fills the left of shorter rows.
    """

    tokenizer: dict[str, str | int]
    vocab_size: int
    context_length: int
    eos_token_id: int | None
    pad_token_id: int

    def __post_init__(self) -> None:
        check_range("vocab_size", self.vocab_size, 1, MAX_COUNT)
        check_range("context_length", self.context_length, 1, MAX_COUNT)
        check_range("pad_token_id", self.pad_token_id, 0, self.vocab_size - 1)
        check_range("eos_token_id", self.eos_token_id, 0, self.vocab_size - 1)


def _check_sizes(what: str, sizes: tuple[int, ...]) -> None:
    if min(sizes) < 1 or math.prod(sizes) > MAX_SAMPLE:
        raise ConfigError(f"{what} is {list(sizes)}", hint=f"at least 1 each, at most {MAX_SAMPLE:,} numbers in all")


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """How the diffusion pipeline uses the engine.

    Attributes:
        schedule: the noise schedule that the model was trained with.
        sample_shape: (C, H, W).
        num_classes: classes that may be asked for, 0 to num_classes - 1; None for a model without classes.
        null_class: the label that means "no class", for classifier-free guidance.
        class_names: one per class; None where they have none.
        default_sampler: one of `samplers.SAMPLERS`.
        default_steps: sampling steps.
        default_guidance_scale: 1 means no guidance.
    """

    schedule: ScheduleConfig
    sample_shape: tuple[int, int, int]
    num_classes: int | None
    null_class: int | None
    default_sampler: str
    default_steps: int
    default_guidance_scale: float
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_sizes("sample_shape", self.sample_shape)
        check_range("num_classes", self.num_classes, 1, MAX_COUNT)
        # The label behind those that may be asked for, or one of them.
        check_range("null_class", self.null_class, 0, -1 if self.num_classes is None else self.num_classes)
        check_class_names(self.class_names, self.num_classes)
        if self.default_sampler not in SAMPLERS:
            raise ConfigError(f"default_sampler is {self.default_sampler!r}", hint=f"valid: {', '.join(SAMPLERS)}")
        check_range("default_steps", self.default_steps, 1, min(MAX_STEPS, self.schedule.num_train_timesteps))
        check_range("default_guidance_scale", self.default_guidance_scale, 0, MAX_GUIDANCE_SCALE)


@dataclass(frozen=True, kw_only=True)
class GanSettings:
    """How the GAN pipeline uses the engine.

    Attributes:
        latent_size: Z.
        sample_shape: (C, H, W) of the images.
        num_classes: classes that may be asked for.
        class_names: one per class; None where they have none.
    """

    latent_size: int
    sample_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_sizes("sample_shape", self.sample_shape)
        _check_sizes("latent_size", (self.latent_size,))
        check_range("num_classes", self.num_classes, 1, MAX_COUNT)
        check_class_names(self.class_names, self.num_classes)


Pipeline = TextSettings | DiffusionSettings | GanSettings

PIPELINES: dict[str, type[TextSettings] | type[DiffusionSettings] | type[GanSettings]] = {
    "text": TextSettings,
    "diffusion": DiffusionSettings,
    "gan": GanSettings,
}
"""family -> type of `Manifest.pipeline`."""


@dataclass(frozen=True, kw_only=True)
class ReferenceStep:
    """One step: names of graph inputs and outputs -> names of .npy files."""

    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class ReferenceCase:
    """Steps that run one after the other on one carried state."""

    name: str
    steps: tuple[ReferenceStep, ...]


@dataclass(frozen=True, kw_only=True)
class ReferenceGeneration:
    """A request to the pipeline, as keyword arguments of `generate`, and PyTorch's result as a .npy file."""

    request: dict[str, Any]
    output: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What PyTorch computed."""

    cases: tuple[ReferenceCase, ...]
    generation: ReferenceGeneration


@dataclass(frozen=True, kw_only=True)
class QualityResult:
    """The model's own metric, of PyTorch (`reference`) and of the bundle, and what data it was measured on."""

    metric: str
    reference: float
    bundle: float
    higher_is_better: bool
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """See docs/bundle.md."""

    format: Literal["aigc-bundle"]
    format_version: int
    name: str
    family: Literal["text", "diffusion", "gan"]
    target: str
    precision: str
    engine: EngineInfo
    files: tuple[FileInfo, ...]
    dims: tuple[DimSpec, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[StateSpec, ...]
    pipeline: Pipeline
    tolerances: Tolerances
    reference: Reference
    quality: tuple[QualityResult, ...]
    model_config: dict[str, Any]
    provenance: dict[str, str]
    origin: Origin | None = None

    @cached_property
    def interface(self) -> Interface:
        """What the engine takes and gives.

        Raises:
            ConfigError: no session could run it.
        """
        return Interface(inputs=self.inputs, outputs=self.outputs, dims=self.dims, state=self.state)

    def __post_init__(self) -> None:
        if not isinstance(self.pipeline, PIPELINES[self.family]):
            raise ConfigError(f"family {self.family!r} with {type(self.pipeline).__name__}")
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(f"format_version is {self.format_version}", hint=f"known: {FORMAT_VERSION}")
        names = [f.path for f in self.files]
        folded = [n.casefold() for n in names]
        if len(set(folded)) != len(folded):
            twice = sorted({n for n in names if folded.count(n.casefold()) > 1})
            raise ConfigError(f"files holds names that differ in case only, or twice: {twice}")
        steps = [step for case in self.reference.cases for step in case.steps]
        used = {self.engine.file, self.reference.generation.output}
        used |= {file for step in steps for files in (step.inputs, step.outputs) for file in files.values()}
        if self.files and not used <= set(names):
            raise ConfigError(f"files lacks {sorted(used - set(names))}")
        check_meaning(self)


def parse_manifest(data: bytes) -> Manifest:
    """Read manifest.json strictly.

    Raises:
        BundleError: names the field, what was found and what is expected.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"manifest.json has {len(data):,} bytes", hint=f"at most {MAX_MANIFEST_BYTES:,} are allowed")
    value = loads_strict(data, what="manifest.json")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BundleError("manifest.json is not that of an aigc-export bundle", hint=f"its format must be {FORMAT!r}")
    version = value.get("format_version")
    if type(version) is not int or version < 1:
        raise BundleError(
            f"manifest.json has format_version {version!r}, this runtime reads {FORMAT_VERSION}",
            hint="the file is damaged or was edited: get it again",
        )
    if version != FORMAT_VERSION:
        raise BundleError(
            f"the bundle has format version {version}, this runtime reads {FORMAT_VERSION}",
            hint="upgrade the runtime (pip install --upgrade aigc-runtime), or export the bundle again with the "
            "aigc-export that goes with it",
        )
    family = value.get("family")
    if not isinstance(family, str) or family not in PIPELINES:
        raise BundleError(f"$.family is {family!r}", hint=f"valid: {', '.join(PIPELINES)}")
    pipeline = from_json(PIPELINES[family], value.get("pipeline"), where="$.pipeline")
    # The pipeline's type follows from the family, which a type hint alone cannot say: it is read first, by its type.
    manifest = from_json(_Untyped, {**value, "pipeline": None})
    if not manifest.files:
        raise BundleError("manifest.json lists no files", hint="the bundle is inconsistent: export it again")
    from aigc_runtime.runnable import check_runnable

    try:
        parsed = Manifest(**{**manifest.__dict__, "pipeline": pipeline})
        check_runnable(parsed)
    except AigcError as err:
        raise BundleError(f"manifest.json: {err.message}", hint=err.hint) from err
    return parsed


@dataclass(frozen=True, kw_only=True)
class _Untyped(Manifest):
    pipeline: Any = None

    def __post_init__(self) -> None:
        """Checked once the pipeline is in place."""


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain JSON."""
    value: dict[str, Any] = to_json(manifest)
    return value


def dump_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON: two spaces, the order of the dataclasses' fields, UTF-8, a final newline."""
    return (json.dumps(manifest_json(manifest), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def with_files(manifest: Manifest, files: tuple[FileInfo, ...]) -> Manifest:
    """The manifest with its list of files filled in."""
    return replace(manifest, files=files)
