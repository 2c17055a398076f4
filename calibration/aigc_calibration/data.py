"""Calibration data: seeded, finite, streamed, and drawn as the pipeline draws it.

A pipeline is run over the float graph, and what it feeds to the engine is recorded: a language model sees real text,
first as a prompt and then token by token with a filled cache; a diffusion model sees its own sampling trajectory, at
every timestep, for every class, with and without its condition; a GAN sees its true latents and classes. Only one
chunk of records is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from aigc_calibration.errors import CalibrationError
from aigc_calibration.floatgraph import Feeds, Interface, open_graph
from aigc_runtime.manifest import DiffusionSettings, GanSettings, TextSettings
from aigc_runtime.pipelines.diffusion import DiffusionPipeline
from aigc_runtime.pipelines.gan import draw_latents
from aigc_runtime.tensors import Array

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ArrayData", "CalibrationData", "DiffusionData", "GanData", "ImageData", "TextData"]


class CalibrationData(Protocol):
    """Batches of arrays for every input of a graph. Asking again gives the same batches again."""

    @property
    def samples(self) -> int:
        """How many there are, over all batches."""
        ...

    @property
    def rows(self) -> int:
        """Rows of all batches: more than samples where a sample is fed in several steps."""
        ...

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Arrays for every input of `graph`, which is run where the next feeds follow from its results."""
        ...


class _Recorder:
    """A function of all graph inputs that keeps copies of what it was given."""

    def __init__(self, run: Callable[[Feeds], dict[str, Array]]) -> None:
        self.run = run
        self.records: list[dict[str, Array]] = []

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        self.records.append({name: np.array(value) for name, value in feeds.items()})
        return self.run(feeds)

    def take(self) -> list[dict[str, Array]]:
        """What was recorded since the last time."""
        records, self.records = self.records, []
        return records


def _check_samples(samples: int, batch: int) -> None:
    if samples < 1 or batch < 1:
        raise CalibrationError(f"samples is {samples}, batch is {batch}", hint="both must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Windows of a text: each is read as a prompt, and its last tokens one by one behind a filled cache.

    Attributes:
        interface: of the language model.
        tokens: [N] int64, the whole text.
        samples: windows.
        length: tokens in a window, cut to what the model takes.
        decode_steps: tokens of each window that are read one by one.
        batch: windows at a time.
        seed: of the windows' places.
    """

    interface: Interface
    tokens: Array
    samples: int = 64
    length: int = 128
    decode_steps: int = 4
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _check_samples(self.samples, self.batch)
        settings = self.interface.settings
        if not isinstance(settings, TextSettings):
            raise CalibrationError("text was given for a model that reads none", hint="give images or an .npz")
        needed = self.window
        if needed < 2 or len(self.tokens) < 2 * needed:
            raise CalibrationError(
                f"the calibration text has {len(self.tokens):,} tokens", hint=f"need at least {2 * needed:,}"
            )
        if self.tokens.min() < 0 or self.tokens.max() >= settings.vocab_size:
            raise CalibrationError(
                f"the calibration text has token ids from {self.tokens.min()} to {self.tokens.max()}",
                hint=f"the model knows 0 to {settings.vocab_size - 1}",
            )
        if len(np.unique(self.tokens)) < 2:
            raise CalibrationError("the calibration text is one token over and over", hint="give real text")

    @property
    def rows(self) -> int:
        """Every window is one prompt, and one row for each token behind it."""
        return self.samples * (1 + self._steps)

    @property
    def _steps(self) -> int:
        return min(self.decode_steps, self.window - 1)

    @property
    def window(self) -> int:
        """Tokens in a window."""
        dims = {d.name: d.max for d in self.interface.dims}
        settings = self.interface.settings
        context = settings.context_length if isinstance(settings, TextSettings) else self.length
        return min(self.length, context, dims.get("sequence") or self.length)

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of the graph, the cache among them."""
        recorder = _Recorder(open_graph(graph, threads=threads))
        session = self.interface.session(recorder)
        rng = np.random.default_rng(self.seed)
        # One window per stretch of the text, so that few windows already cover all of it.
        edges = np.linspace(0, len(self.tokens) - self.window, self.samples + 1)
        starts = rng.permutation((edges[:-1] + rng.random(self.samples) * np.diff(edges)).astype(np.int64))
        prompt = self.window - self._steps
        for first in range(0, self.samples, self.batch):
            rows = starts[first : first + self.batch]
            ids = np.stack([self.tokens[s : s + self.window] for s in rows]).astype(np.int64)
            state = session.new_state(len(rows))
            pads = np.zeros(len(rows), dtype=np.int64)
            session.run({"input_ids": ids[:, :prompt], "pad_length": pads}, state)
            for step in range(prompt, self.window):
                session.run({"input_ids": ids[:, step : step + 1], "pad_length": pads}, state)
            yield from recorder.take()


@dataclass(frozen=True, kw_only=True)
class DiffusionData:
    """Points of the model's own sampling trajectory, the same number from every step, class and guidance branch.

    Attributes:
        interface: of the UNet.
        samples: points.
        steps: of the trajectories; None takes 50, or as many as the schedule has.
        batch: points at a time.
        seed: of the noise and of the choice.
        context: [N, T, X] float32, embeddings for a model with cross-attention; rows are taken in turn.
    """

    interface: Interface
    samples: int = 256
    steps: int | None = None
    batch: int = 16
    seed: int = 0
    context: Array | None = None

    def __post_init__(self) -> None:
        _check_samples(self.samples, self.batch)
        if not isinstance(self.interface.settings, DiffusionSettings):
            raise CalibrationError("a sampling trajectory was asked for", hint="the model is not a diffusion model")
        if self._takes_context and self.context is None:
            raise CalibrationError(
                "the model takes encoder_hidden_states", hint="give them as calibration data: an .npz of real prompts"
            )

    @property
    def rows(self) -> int:
        """One for every point."""
        return self.samples

    @property
    def _takes_context(self) -> bool:
        return any(t.name == "encoder_hidden_states" for t in self.interface.inputs)

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of the graph."""
        settings = self.interface.settings
        assert isinstance(settings, DiffusionSettings)
        recorder = _Recorder(open_graph(graph, threads=threads))
        pipeline = DiffusionPipeline(self.interface.session(recorder), settings)
        rng = np.random.default_rng(self.seed)
        steps = self.steps or min(50, settings.schedule.num_train_timesteps)
        rows = 16
        left, chunk = self.samples, 0
        while left:
            places = np.arange(chunk * rows, (chunk + 1) * rows)
            labels = None if settings.num_classes is None else (places % settings.num_classes).tolist()
            guided = settings.null_class is not None
            context = None
            if self.context is not None:
                context = self.context[places % len(self.context)]
            pipeline.generate(
                labels,
                batch=rows if labels is None and context is None else None,
                steps=steps,
                sampler="ddim",
                guidance_scale=max(settings.default_guidance_scale, 1.5) if guided else 1.0,
                seed=int(rng.integers(2**31)),
                encoder_hidden_states=context,
                null_encoder_hidden_states=np.zeros_like(context[:1]) if guided and context is not None else None,
            )
            points = _rows(recorder.take())
            count = min(left, max(2 * steps, self.batch), len(points))
            # Every point of a trajectory in turn: the i-th of `count` comes from the i-th stretch of the records.
            edges = np.linspace(0, len(points), count + 1)
            chosen = (edges[:-1] + rng.random(count) * np.diff(edges)).astype(np.int64)
            rng.shuffle(chosen)
            for first in range(0, count, self.batch):
                some = [points[i] for i in chosen[first : first + self.batch]]
                yield {name: np.stack([p[name] for p in some]) for name in some[0]}
            left -= count
            chunk += 1


def _rows(records: list[dict[str, Array]]) -> list[dict[str, Array]]:
    """Single rows of batched records, in order."""
    return [{k: v[i] for k, v in record.items()} for record in records for i in range(len(next(iter(record.values()))))]


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Images with noise: x_t ~ q(x_t | x_0) (Ho et al. 2020, eq. 4), the timesteps stratified over all there are.

    Attributes:
        interface: of the UNet.
        images: [N, C, H, W] float32 in [-1, 1].
        labels: [N] int64, for a model with classes.
        samples: points.
        batch: points at a time.
        seed: of noise, timesteps and order.
    """

    interface: Interface
    images: Array
    labels: Array | None = None
    samples: int = 256
    batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _check_samples(self.samples, self.batch)
        settings = self.interface.settings
        if not isinstance(settings, DiffusionSettings):
            raise CalibrationError(
                "images were given for a model that reads none", hint="give text for a language model; a GAN needs none"
            )
        _check_images(self.images, settings.sample_shape)
        if settings.num_classes is not None and (self.labels is None or len(self.labels) != len(self.images)):
            raise CalibrationError("the images have no class labels", hint="one sub-folder of images per class")

    @property
    def rows(self) -> int:
        """One for every point."""
        return self.samples

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of the graph."""
        from aigc_runtime.schedules import alphas_cumprod

        settings = self.interface.settings
        assert isinstance(settings, DiffusionSettings)
        alpha_bar = alphas_cumprod(settings.schedule)
        rng = np.random.default_rng(self.seed)
        steps = len(alpha_bar)
        times = rng.permutation(
            ((np.arange(self.samples) + rng.random(self.samples)) * steps / self.samples).astype(int)
        )
        picks = rng.permutation(np.arange(self.samples) % len(self.images))
        for first in range(0, self.samples, self.batch):
            t, pick = times[first : first + self.batch], picks[first : first + self.batch]
            a = alpha_bar[t][:, None, None, None]
            noise = rng.standard_normal(self.images[pick].shape)
            x = np.sqrt(a) * self.images[pick] + np.sqrt(1 - a) * noise
            feeds = {"sample": x.astype(np.float32), "timestep": t.astype(np.float32)}
            if self.labels is not None and settings.num_classes is not None:
                feeds["class_labels"] = self.labels[pick].astype(np.int64)
                if settings.null_class is not None:  # every other point without its condition
                    feeds["class_labels"][1::2] = settings.null_class
            yield feeds


def _check_images(images: Array, shape: tuple[int, ...]) -> None:
    if images.ndim != 4 or images.shape[1:] != shape or not len(images):
        raise CalibrationError(f"the images have shape {list(images.shape)}", hint=f"expected [N, {shape}]")
    if not np.isfinite(images).all():
        raise CalibrationError("the images hold NaN or infinity", hint="check the files")
    if images.min() == images.max():
        raise CalibrationError("the images are one constant", hint="give real images")


@dataclass(frozen=True, kw_only=True)
class GanData:
    """Latents and classes as the pipeline draws them.

    Attributes:
        interface: of the generator.
        samples: latents.
        batch: latents at a time.
        seed: of the latents.
        truncation: as in `GanPipeline.generate`.
    """

    interface: Interface
    samples: int = 256
    batch: int = 16
    seed: int = 0
    truncation: float | None = None

    def __post_init__(self) -> None:
        _check_samples(self.samples, self.batch)
        if not isinstance(self.interface.settings, GanSettings):
            raise CalibrationError("latents were asked for", hint="the model is not a GAN generator")

    @property
    def rows(self) -> int:
        """One for every latent."""
        return self.samples

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of the graph."""
        settings = self.interface.settings
        assert isinstance(settings, GanSettings)
        for first in range(0, self.samples, self.batch):
            count = min(self.batch, self.samples - first)
            latents = draw_latents((count, settings.latent_size), seed=self.seed + first, truncation=self.truncation)
            yield {"latents": latents, "class_labels": np.arange(first, first + count) % settings.num_classes}


@dataclass(frozen=True, kw_only=True)
class ArrayData:
    """The user's own arrays, one per input of the graph.

    Attributes:
        interface: of the model.
        arrays: input -> [N, ...]; all of one length.
        batch: rows at a time.
    """

    interface: Interface
    arrays: Mapping[str, Array] = field(default_factory=dict)
    batch: int = 16

    def __post_init__(self) -> None:
        from aigc_runtime.tensors import FeedChecker

        expected = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in self.interface.inputs)
        names = {t.name for t in self.interface.inputs}
        if self.arrays.keys() != names:
            raise CalibrationError(
                f"the calibration arrays are {sorted(self.arrays)}", hint=f"expected exactly: {expected}"
            )
        if len({len(a) if a.ndim else 0 for a in self.arrays.values()}) != 1 or not self.samples:
            lengths = {name: list(a.shape) for name, a in self.arrays.items()}
            raise CalibrationError(
                f"the calibration arrays have shapes {lengths}", hint="the same rows in each, one or more"
            )
        for name, array in self.arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CalibrationError(
                    f"calibration array {name!r} holds NaN or infinity", hint="check where it comes from"
                )
            if array.dtype.kind == "f" and array.min() == array.max():
                raise CalibrationError(f"calibration array {name!r} is one constant", hint="give real samples")
        checker = FeedChecker(self.interface.inputs, {d.name: d for d in self.interface.dims})
        checker.check({name: array[: self.batch] for name, array in self.arrays.items()})

    @property
    def samples(self) -> int:
        """Rows."""
        first = next(iter(self.arrays.values()), np.empty(0))
        return len(first) if first.ndim else 0

    @property
    def rows(self) -> int:
        """One for every sample."""
        return self.samples

    def batches(self, graph: ir.Model, *, threads: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of the graph; carried state is empty."""
        recorder = _Recorder(open_graph(graph, threads=threads))
        session = self.interface.session(recorder)
        for first in range(0, self.samples, self.batch):
            feeds = {name: array[first : first + self.batch] for name, array in self.arrays.items()}
            rows = len(next(iter(feeds.values())))
            session.run(feeds, session.new_state(rows) if self.interface.state else None)
            yield from recorder.take()
