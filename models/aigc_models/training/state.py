"""Keep the state of an unfinished training: written with the weights so far, in one step, and read back bit for bit."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aigc_models.training.curve import CURVE_FILE, Curve
from aigc_models.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE, save_checkpoint
from aigc_models.weights.load_into import load_into
from aigc_models.weights.safetensors_file import parse_tensors
from aigc_models.weights.weights_file import STATE_FILE, STATE_JSON, unfinished
from aigc_runtime.errors import CheckpointError
from aigc_runtime.io.publish_checks import check_directory
from aigc_runtime.io.strict_json import loads_strict
from aigc_runtime.io.user_file import read_file

if TYPE_CHECKING:
    from aigc_models.training.loop import LoopConfig, Task

__all__ = ["SAMPLES_PREFIX", "STATE_FILE", "STATE_JSON", "RunState", "check_output", "unfinished"]

SAMPLES_PREFIX = "samples-"
MAX_STATE_BYTES = 2**40
MAX_SMALL_BYTES = 2**28


@dataclass(kw_only=True)
class RunState:
    """The state of a run, apart from its configuration.

    Attributes:
        task: what is trained.
        average: the moving average of its weights, if one is kept.
        rng: of data order and noise.
        curve: the losses so far.
        step: steps done.
        seconds: they took, earlier parts of the run included.
        cpu_seconds: the same on the processors.
        samples: file name -> content of the samples so far.
        writer: who wrote the state that is in the output folder, as far as this run knows; None where there is none.
        notes: what the user should hear of a resumed run.
        kept: file name -> content of what is kept of the data.
    """

    task: Task
    average: nn.Module | None
    rng: torch.Generator
    curve: Curve
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    samples: dict[str, bytes] = field(default_factory=dict)
    writer: str | None = None
    notes: tuple[str, ...] = ()
    kept: dict[str, bytes] = field(default_factory=dict)

    @property
    def result(self) -> nn.Module:
        """The module whose weights are the result."""
        return self.average if self.average is not None else self.task.model

    def files(self) -> dict[str, bytes]:
        """Make the files beside the weights, finished or not."""
        return {CURVE_FILE: self.curve.csv(), **self.samples, **self.kept}

    def save(self, output: Path, config: LoopConfig, record: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Write weights and state, whole or not at all.

        Raises:
            CheckpointError: another run has written its state there meanwhile, which stays.
        """
        if _writer(output) != self.writer:
            raise CheckpointError(
                f"another training writes into {str(output)!r}", hint="give each run a folder of its own"
            )
        tensors: dict[str, Tensor] = {"rng": self.rng.get_state(), "torch_rng": torch.get_rng_state()}
        for owner, module in self._modules().items():
            tensors.update({f"module/{owner}/{k}": v for k, v in module.state_dict().items()})
        for name, optimizer in self.task.optimizers.items():
            for index, values in optimizer.state_dict()["state"].items():
                tensors.update({f"optimizer/{name}/{index}/{k}": v for k, v in values.items()})
        writer = secrets.token_hex(8)
        saved = {
            "step": self.step,
            "steps": config.steps,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "writer": writer,
            "tensors": len(tensors),
            "environment": _environment(),
        }
        save_checkpoint(
            output,
            self.result,
            record,
            extra_json={STATE_JSON: {**saved, "loop": asdict(config), "run": dict(run)}},
            extra_tensors={STATE_FILE: tensors},
            extra_files=self.files(),
        )
        self.writer = writer

    def restore(self, output: Path, config: LoopConfig, record: Mapping[str, Any], run: Mapping[str, Any]) -> None:
        """Read the state that a run of the same settings left.

        Raises:
            CheckpointError: nothing to resume, a finished run, other settings (by name and value), or damage.
        """
        saved = _read_record(output)
        try:
            _require_same(output, {**saved["run"], **saved["loop"]}, _plain({**run, **asdict(config)}))
            _require_same(output, _read_json(output / CONFIG_FILE), _plain(record))
            data = read_file(output / STATE_FILE, limit=MAX_STATE_BYTES, error=CheckpointError)
            tensors = parse_tensors(data, what=str(output / STATE_FILE)).tensors
            if len(tensors) != saved["tensors"]:
                raise ValueError(f"{STATE_FILE} holds {len(tensors)} tensors, {saved['tensors']} were written")
            self.rng.set_state(tensors["rng"])
            torch.set_rng_state(tensors["torch_rng"])
            for owner, module in self._modules().items():
                load_into(module, _below(f"module/{owner}/", tensors), source=f"{STATE_FILE}: {owner}")
            for name, optimizer in self.task.optimizers.items():
                state: dict[int, dict[str, Tensor]] = {}
                for key, value in _below(f"optimizer/{name}/", tensors).items():
                    index, entry = key.split("/")
                    state.setdefault(int(index), {})[entry] = value
                optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
            self.cpu_seconds, self.writer = float(saved["cpu_seconds"]), str(saved["writer"])
            self.notes = _changes(saved["environment"])
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as err:
            raise CheckpointError(
                f"the training state in {str(output)!r} is damaged: {err}",
                hint="remove the folder to start again without --resume",
            ) from err
        if (output / CURVE_FILE).exists():
            self.curve.read(_read_small(output / CURVE_FILE), step=self.step)
        self.samples = {file.name: _read_small(file) for file in sorted(output.glob(f"{SAMPLES_PREFIX}*"))}

    def _modules(self) -> dict[str, nn.Module]:
        modules = {"model": self.task.model, **self.task.extra}
        return modules if self.average is None else {**modules, "average": self.average}


def _environment() -> dict[str, Any]:
    """Describe what the last bits of sums depend on."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def _changes(before: Mapping[str, Any]) -> tuple[str, ...]:
    now = _environment()
    changed = [f"{name} was {before[name]}, is {value}" for name, value in now.items() if before[name] != value]
    return (f"{'; '.join(changed)}: the weights can differ in their last bits",) if changed else ()


def _writer(output: Path) -> str | None:
    """Read the writer of the state in a folder; None where there is no state."""
    try:
        saved = _read_record(output)
    except CheckpointError:
        return None
    return str(saved.get("writer"))


def check_output(output: Path, *, resume: bool) -> None:
    """Check before the training that a folder is free: no other files, no state that a new run would replace.

    Raises:
        OutputError: it cannot be written, or was not written by this tool.
        CheckpointError: it holds an unfinished run, or with `resume` none.
    """
    check_directory(output, marker=CONFIG_FILE)
    if resume:
        _read_record(output)
    elif (state := unfinished(output)) is not None:
        raise CheckpointError(
            f"{str(output)!r} holds a training that stopped at step {state[0]:,} of {state[1]:,}",
            hint="go on with --resume, choose another folder, or remove this one",
        )


def _read_record(output: Path) -> dict[str, Any]:
    missing = [name for name in (STATE_JSON, STATE_FILE) if not (output / name).is_file()]
    if missing:
        finished = len(missing) == 2 and (output / WEIGHTS_FILE).is_file()
        why = "its training is finished" if finished else f"no {' and no '.join(missing)}"
        raise CheckpointError(
            f"nothing to resume in {str(output)!r}: {why}",
            hint="run without --resume; a run that is interrupted leaves its state in its output folder",
        )
    saved = _read_json(output / STATE_JSON)
    if not isinstance(saved, dict) or not isinstance(saved.get("run"), dict) or not isinstance(saved.get("loop"), dict):
        raise CheckpointError(
            f"{str(output / STATE_JSON)!r} is no training state", hint="remove the folder to start again"
        )
    return saved


def _read_json(path: Path) -> Any:
    return loads_strict(_read_small(path), what=str(path), error=CheckpointError)


def _read_small(path: Path) -> bytes:
    return read_file(path, limit=MAX_SMALL_BYTES, error=CheckpointError)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _require_same(output: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if changed:
        changes = "; ".join(f"{k} was {_shown(before.get(k))}, is {_shown(now.get(k))}" for k in changed)
        raise CheckpointError(
            f"the run in {str(output)!r} used other settings: {changes}",
            hint="resume with the data and options that it was started with",
        )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
