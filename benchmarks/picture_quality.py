"""How good the pictures of a trained generator are, and how much of that it remembers.

    aigc-export train classifier --data out/fashion -o out/classifier
    python benchmarks/picture_quality.py out/stylegan2 out/fashion --classifier out/classifier [--sheet sheet.png]

The model is a checkpoint or the name of one that is shipped, which PyTorch runs, or a bundle: equal seeds give both the
same noise. Measured on as many pictures of each class:

- `accuracy`: how often a classifier trained on the same data sees the class that was asked for, beside how often it is
  right on real pictures that no training saw; of all, and of each class.
- `frechet`: the Fréchet distance to the real pictures of the training in the classifier's features. An estimate from N
  pictures is too large by about a constant over N (Chong & Forsyth 2020, "Effectively Unbiased FID and Inception
  Score"), so the line through the estimates at N and N / 2 is followed to 1 / N = 0: `unbiased`. `floor` is what real
  pictures that were held out have. Both take at least ten pictures for each of the features.
- `nearest`: the mean distance of a picture to the nearest of the training (root mean square of pixels in [0, 255]),
  beside that of real pictures that were held out. Far below it, the generator repeats its data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aigc_models.data.image_data import ImageData, load_images
from aigc_models.evaluation.metrics import class_accuracy, classifier_features, frechet_distance
from aigc_models.evaluation.showcase import image_showcase
from aigc_models.families.classifier import Classifier, ClassifierConfig
from aigc_models.sources import resolve
from aigc_models.torch_session import open_torch
from aigc_models.weights.checkpoint import load_checkpoint
from aigc_models.weights.stream_into import stream_into
from aigc_runtime.bundle.bundle import MANIFEST
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import AigcError, InputError
from aigc_runtime.opening import open_pipeline
from aigc_runtime.pipelines import make_pipeline

BATCH = 50
HALVES = 8
ROWS_PER_FEATURE = 10


def load_classifier(folder: Path) -> Classifier:
    """Load a classifier that `aigc-export train classifier` wrote."""
    found = load_checkpoint(folder)
    model = Classifier(ClassifierConfig.from_dict(found.config["model"]))
    stream_into(model, found.tensors, source=str(folder))
    return model.eval()


def generate(model: str, count: int, **options: Any) -> tuple[Array, Array, Callable[..., Array], tuple[str, ...]]:
    """Generate as many pictures of each class: (pictures in [-1, 1], labels, the pipeline's call, class names).

    Raises:
        InputError: a model without classes.
    """
    opened = _open(model)
    settings = opened.settings
    if not settings.num_classes or settings.class_names is None:
        raise InputError(f"{model!r} has no named classes", hint="train it on a folder with a sub-folder per class")
    labels = [n % settings.num_classes for n in range(count)]
    parts = [
        opened.generate(labels[start : start + BATCH], seed=seed, **options)
        for seed, start in enumerate(range(0, count, BATCH))
    ]
    images = np.clip(np.concatenate(parts), -1, 1)
    return images, np.array(labels), opened.generate, tuple(settings.class_names)


def _open(model: str) -> Any:
    if (Path(model) / MANIFEST).exists():
        return open_pipeline(model)
    program = resolve(model)
    return make_pipeline(open_torch(program), program.settings, program.engines)


def accuracy_by_class(classifier: Classifier, images: Array, labels: Array, names: Sequence[str]) -> str:
    """Say how often the classifier sees the class that was asked for, class by class."""
    found = {
        name: class_accuracy(classifier, images[labels == number], labels[labels == number])
        for number, name in enumerate(names)
        if (labels == number).any()
    }
    return ", ".join(f"{name} {value:.3g}" for name, value in found.items())


def unbiased_distance(features: Array, real: Array) -> tuple[float, float | None]:
    """Fréchet distance at all N rows, and followed to 1 / N = 0 along the line through N and N / 2.

    Halves are drawn, since rows may be in the order of their classes. The second is None where rows are so few that
    the line would say nothing.
    """
    rng = np.random.default_rng(0)
    whole = frechet_distance(features, real)
    if len(features) < ROWS_PER_FEATURE * features.shape[1]:
        return whole, None
    drawn = (rng.permutation(len(features))[: len(features) // 2] for _ in range(HALVES))
    half = float(np.mean([frechet_distance(features[rows], real) for rows in drawn]))
    return whole, 2 * whole - half


def nearest_distance(images: Array, others: Array) -> float:
    """Mean over images of the distance to the nearest of `others`: root mean square, of pixels in [0, 255]."""
    a, b = (127.5 * x.reshape(len(x), -1).astype(np.float64) for x in (images, others))
    squares = (b * b).sum(axis=1)
    found = [max(float((squares - 2 * b @ row).min() + row @ row), 0.0) / a.shape[1] for row in a]
    return float(np.sqrt(found).mean())


def measure(images: Array, labels: Array, classifier: Classifier, data: ImageData) -> dict[str, float | None]:
    """Measure generated pictures beside those that training did not see."""
    train, held_out = data.train.numpy(), data.held_out.numpy()
    real = classifier_features(classifier, train)
    frechet, unbiased = unbiased_distance(classifier_features(classifier, images), real)
    return {
        "pictures": len(images),
        "accuracy": class_accuracy(classifier, images, labels),
        "accuracy_real": class_accuracy(classifier, held_out, data.held_out_labels.numpy()),
        "frechet": frechet,
        "unbiased": unbiased,
        "floor": unbiased_distance(classifier_features(classifier, held_out), real)[1],
        "nearest": nearest_distance(images, train),
        "nearest_real": nearest_distance(held_out[: len(images)], train),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the pictures of a trained generator.")
    parser.add_argument("model", help="its checkpoint, a shipped name, or a bundle")
    parser.add_argument("data", type=Path, help="the pictures that it was trained on")
    parser.add_argument("--classifier", type=Path, required=True, help="trained on the same pictures")
    parser.add_argument("--count", type=int, default=500, help="pictures in all (default 500)")
    parser.add_argument("--guidance", type=float, help="guidance scale of a diffusion model")
    parser.add_argument("--sheet", type=Path, help="also draw some into this PNG")
    given = parser.parse_args(arguments)
    options = {} if given.guidance is None else {"guidance_scale": given.guidance}
    try:
        images, labels, call, names = generate(given.model, given.count, **options)
        data = load_images(given.data, size=images.shape[-1], channels=images.shape[1])
        if data.class_names != names:
            raise InputError(f"{str(given.data)!r} has other classes", hint=f"the model's: {', '.join(names)}")
        classifier = load_classifier(given.classifier)
        for name, value in measure(images, labels, classifier, data).items():
            print(f"{name:<14}{'too few' if value is None else format(value, '.4g')}")
        real = (data.held_out.numpy(), data.held_out_labels.numpy())
        print(f"{'by_class':<14}{accuracy_by_class(classifier, images, labels, names)}")
        print(f"{'by_class_real':<14}{accuracy_by_class(classifier, *real, names)}")
        if given.sheet is not None:
            given.sheet.write_bytes(image_showcase(lambda rows: call(rows, seed=0, **options), len(names)))
    except AigcError as err:
        parser.error(str(err))


if __name__ == "__main__":
    main()
