"""The task of a family with its data, and the measurement of its result, for `train_family`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from aigc_models.data.text_data import TextData
from aigc_models.evaluation.quality import Metric
from aigc_models.training.loop import LoopConfig, Sampler, Task
from aigc_models.training.options import TrainOptions

__all__ = ["Measured", "Prepared", "loop_of"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measured quality of a trained model.

    Attributes:
        metrics: none where a user's own data have no classifier here.
        samples: windows or images that they were measured on.
        data: what those are of, as tables show it.
        record: fields of config.json that were measured.
    """

    metrics: tuple[Metric, ...] = ()
    samples: int = 0
    data: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A training that is ready to begin.

    Attributes:
        task: what is trained.
        loop: how.
        record: the checkpoint's config.json.
        notes: what the data are and what was done to them, a sentence each.
        data_sha256: of all that training sees.
        finish: changes the result where it needs it, and measures it.
        sample: draws samples of a module; None where there is nothing to draw.
        text: what a language model is trained on; None for others.
    """

    task: Task
    loop: LoopConfig
    record: dict[str, Any]
    notes: tuple[str, ...]
    data_sha256: str
    finish: Callable[[nn.Module], Measured]
    sample: Sampler | None = None
    text: TextData | None = None


def loop_of(default: LoopConfig, options: TrainOptions) -> LoopConfig:
    """Apply the user's options to a recipe's loop."""
    given = {name: getattr(options, name) for name in ("steps", "batch_size", "learning_rate")}
    return LoopConfig(**{**asdict(default), **{k: v for k, v in given.items() if v is not None}, "seed": options.seed})
