"""A small generator that the benchmark trains by itself: by which recipe, and where it is kept.

A trained model lies in the cache, in a folder that is named by its recipe's digest: a recipe that changes trains anew.
Nothing trained is part of the repository.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

from quant_entry import Entry

__all__ = ["CACHE", "Recipe", "Training", "code_digest", "trained_folder"]

CACHE = Path(os.environ.get("AIGC_BENCHMARK_CACHE") or Path.home() / ".cache" / "aigc-export-benchmarks")
DIGITS = 12
"""Of a digest in a folder's name."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """The numbers of a training.

    Attributes:
        steps: updates in all.
        batch_size: rows of an update.
        learning_rate: peak of a cosine behind a short warm-up.
        size: side of the square pictures in pixels, or tokens of a window of text.
        width: channels or features of the model, as its architecture counts them.
        rows: pictures of a class that are trained on, at most; 0 takes all there are.
        seed: of weights, data order and noise.
    """

    steps: int
    batch_size: int
    learning_rate: float
    size: int
    width: int
    rows: int = 0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a generator is trained, and how it enters the product.

    Attributes:
        name: of the subject.
        about: what it is, a phrase.
        training: its numbers.
        made_by: functions and classes of the benchmark whose code the result depends on, and values of the package's
            own recipes that it depends on.
        train: (numbers, an empty folder, folders of `needs` by name) -> writes the trained model there.
        enter: (numbers, folder, folders of `needs`) -> what the product is given.
        needs: recipes whose results this one reads.
    """

    name: str
    about: str
    training: Training
    made_by: tuple[object, ...]
    train: Callable[[Training, Path, Mapping[str, Path]], None]
    enter: Callable[[Training, Path, Mapping[str, Path]], Entry]
    needs: tuple[Recipe, ...] = field(default=())

    @property
    def digest(self) -> str:
        """SHA-256 of all that the result depends on."""
        told = [self.name, repr(self.training), *(code_digest(one) for one in self.made_by)]
        told += [recipe.digest for recipe in self.needs]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


def code_digest(made_by: object) -> str:
    """SHA-256 of what a function or class does: of its code without comments and docstrings; of other values, `repr`.

    >>> code_digest(code_digest) == code_digest(code_digest)
    True
    """
    if not isinstance(made_by, (type, FunctionType)):
        return hashlib.sha256(repr(made_by).encode()).hexdigest()
    tree = ast.parse(textwrap.dedent(inspect.getsource(made_by)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def trained_folder(
    recipe: Recipe, cache: Path | None = None, *, say: Callable[[str], Any] = lambda _told: None
) -> Path:
    """The folder of a trained model; trains it, and first what it needs, where the cache lacks it.

    The folder is filled beside its place and renamed at the end, so that what is there is whole.

    Args:
        recipe: of the model.
        cache: folder of all trained models; None takes `CACHE`.
        say: called with a sentence before a training begins.
    """
    root = CACHE if cache is None else cache
    needs = {needed.name: trained_folder(needed, root, say=say) for needed in recipe.needs}
    folder = root / f"{recipe.name}-{recipe.digest[:DIGITS]}"
    if folder.is_dir():
        return folder
    say(f"training {recipe.name}: {recipe.training.steps:,} steps, once; kept in {folder}")
    root.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{recipe.name}-", dir=root))
    try:
        recipe.train(recipe.training, beside, needs)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has trained the same meanwhile
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
