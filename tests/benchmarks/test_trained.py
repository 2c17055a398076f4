"""The small generators of the quantization benchmark: recipes of two steps, their cache, and how they enter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from examples.open_pictures import FASHION, FONT, LIST
from quant_entry import Entry
from quant_subjects import SUBJECTS, subject_of, trained_entry
from trained import HELD_OUT, RECIPES
from trained.data import emoji, fashion, windows
from trained.recipe import Recipe, Training, code_digest, trained_folder

NUMBERS = Training(steps=1, batch_size=1, learning_rate=0.1, size=8, width=4)
needs_fashion = pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's dataset-fashion-mnist")
needs_emoji = pytest.mark.skipif(
    not (FONT.is_file() and LIST.is_file()), reason="needs Debian's emoji and unicode-data"
)
WITH_FASHION = ("vae", "pixel-unet", "latent-unet", "dcgan")


def writes(training: Training, folder: Path, _needs: Mapping[str, Path]) -> None:
    """Write a file in place of weights."""
    (folder / "weights").write_text(str(training.steps))


def fails(training: Training, folder: Path, needs: Mapping[str, Path]) -> None:
    writes(training, folder, needs)
    raise RuntimeError("diverged")


def never(_training: Training, _folder: Path, _needs: Mapping[str, Path]) -> Entry:
    raise AssertionError("not called")


TOY = Recipe(name="toy", about="", training=NUMBERS, made_by=(writes, 3), train=writes, enter=never)


def small(recipe: Recipe) -> Recipe:
    """The same of two steps, on few pictures."""
    rows = 20 if recipe.training.rows else 0
    return replace(
        recipe,
        training=replace(recipe.training, steps=2, batch_size=4, rows=rows),
        needs=tuple(small(one) for one in recipe.needs),
    )


def test_a_recipe_is_trained_once(tmp_path: Path) -> None:
    told: list[str] = []
    folder = trained_folder(TOY, tmp_path, say=told.append)
    assert (folder / "weights").read_text() == "1"
    assert trained_folder(TOY, tmp_path, say=told.append) == folder
    assert len(told) == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_a_changed_recipe_is_trained_anew(tmp_path: Path) -> None:
    changed = (
        replace(TOY, training=replace(NUMBERS, steps=2)),
        replace(TOY, made_by=(fails, 3)),
        replace(TOY, made_by=(writes, 4)),
        replace(TOY, needs=(replace(TOY, name="other"),)),
    )
    folders = {trained_folder(recipe, tmp_path) for recipe in (TOY, *changed)}
    assert len(folders) == 5


def test_what_is_needed_is_part_of_the_digest() -> None:
    needed = replace(TOY, name="needed")
    one = replace(TOY, needs=(needed,))
    other = replace(TOY, needs=(replace(needed, training=replace(NUMBERS, seed=1)),))
    assert one.digest != other.digest


def test_a_training_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        trained_folder(replace(TOY, train=fails), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_have_trained_the_same(tmp_path: Path) -> None:
    def slower(training: Training, folder: Path, needs: Mapping[str, Path]) -> None:
        writes(training, folder, needs)
        trained_folder(TOY, tmp_path)

    folder = trained_folder(replace(TOY, train=slower), tmp_path)
    assert (folder / "weights").read_text() == "1"
    assert list(tmp_path.iterdir()) == [folder]


def test_words_about_the_code_are_not_part_of_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "plain": "def f(x):\n    return x + 1\n",
        "told": 'def f(x):\n    """Says more."""\n    # and more\n    return x + 1\n',
        "other": "def f(x):\n    return x + 2\n",
    }
    monkeypatch.syspath_prepend(tmp_path)
    digests = {}
    for name, source in sources.items():
        (tmp_path / f"digested_{name}.py").write_text(source)
        digests[name] = code_digest(__import__(f"digested_{name}").f)
    assert digests["plain"] == digests["told"]
    assert digests["plain"] != digests["other"]


def test_two_subjects_are_held_out() -> None:
    assert HELD_OUT == ("coloring", "textbook")
    assert set(RECIPES) <= set(SUBJECTS)
    assert len(RECIPES) == 8
    assert len({recipe.digest for recipe in RECIPES.values()}) == 8


def entered(name: str, folder: Path) -> None:
    """A recipe of two steps makes a subject that gives a float graph, calibration rows, and a judgment of itself."""
    subject = subject_of(trained_entry(small(RECIPES[name]), folder), name)
    data = subject.data(0, 4)
    assert data.samples == 4
    with subject.open(subject.proto_bytes(), threads=1) as session:
        value, _ = subject.judge(session, seed=0, samples=2)
    assert value < 1e-4 if subject.measure == "ppl_increase" else value > 80


def test_a_language_model_enters_as_a_module_of_its_own(tmp_path: Path) -> None:
    entered("gpt2-form", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name != "gpt2-form"])
def test_every_recipe_makes_a_subject(name: str, tmp_path: Path) -> None:
    if name in WITH_FASHION and not FASHION.is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist")
    if name == "coloring" and not FONT.is_file():
        pytest.skip("needs Debian's fonts-noto-color-emoji")
    entered(name, tmp_path)


@needs_fashion
def test_fashion_is_in_range_and_its_sides_are_apart() -> None:
    images, labels = fashion(16, rows=3)
    assert images.shape == (30, 1, 16, 16)
    assert images.dtype == np.float32
    assert -1 <= images.min() < images.max() <= 1
    assert sorted(labels.tolist()) == [label for label in range(10) for _ in range(3)]
    held_out, _ = fashion(16, rows=3, held_out=True)
    assert not any((one == other).all() for one in images for other in held_out)


@needs_fashion
def test_a_size_that_fashion_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="must divide 32"):
        fashion(12, rows=1)


@needs_emoji
@pytest.mark.slow
def test_no_emoji_is_on_both_sides() -> None:
    learned, held_out = emoji(16)
    assert len(learned) > 4 * len(held_out) - 5
    assert learned.shape[1:] == held_out.shape[1:] == (3, 16, 16)


def test_windows_are_spread_over_the_text() -> None:
    text = np.arange(100, dtype=np.uint8)
    found = windows(text, 10, 5)
    assert found[0].tolist() == list(range(10))
    assert found[-1].tolist() == list(range(90, 100))
    assert windows(text, 60, 5).shape == (1, 60)
