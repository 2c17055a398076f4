"""A trained model of pictures and its classifier become shipped checkpoints: weights in 16 bits, and quality measured.

    python benchmarks/ship_pictures.py out/emoji-unet out/emoji --classifier out/emoji-classifier -o FOLDER

FOLDER is one of models/aigc_models/checkpoints/, whose name `MODELS` (models/aigc_models/sources/shipped.py) has to
hold. The classifier goes into FOLDER_classifier, which a line of `KNOWN_PICTURES` (models/aigc_models/evaluation/)
names, with the moments of its features of the pictures that were trained on: the pictures are not shipped.
What the training reported stays in quality.json; the measures are those of `picture_quality.py`, of the rounded weights
in PyTorch: `class_accuracy` and `frechet_distance` (its bias taken out), and both of real pictures that were held out.
A SOURCE.md that is in FOLDER stays.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import picture_quality

from aigc_models.data.image_data import ImageData, load_images
from aigc_models.evaluation.known_pictures import REAL_FEATURES
from aigc_models.evaluation.metrics import classifier_features, feature_moments
from aigc_models.weights.checkpoint import load_checkpoint, save_checkpoint
from aigc_runtime.errors import AigcError, InputError

REPORT, SOURCE = "quality.json", "SOURCE.md"
MEASURES = {
    "accuracy": "class_accuracy",
    "accuracy_real": "class_accuracy_real",
    "unbiased": "frechet_distance",
    "floor": "frechet_distance_real",
}
"""Name in `picture_quality.measure` -> in quality.json."""


def write_rounded(trained: Path, output: Path, files: dict[str, bytes], report: dict[str, Any]) -> None:
    """Write a checkpoint with its weights in float16, which loading makes float32 again."""
    found = load_checkpoint(trained)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in found.tensors.items()}
    save_checkpoint(output, tensors, found.config, extra_json={REPORT: report}, extra_files=files)


def write_classifier(trained: Path, output: Path, data: ImageData) -> None:
    """Write a classifier, rounded, with the moments of its features of the pictures that were trained on."""
    report = json.loads((trained / REPORT).read_text(encoding="utf-8"))
    write_rounded(trained, output, {}, report)
    found = feature_moments(classifier_features(picture_quality.load_classifier(output), data.train.numpy()))
    held = json.dumps({"mean": found.mean.tolist(), "covariance": found.covariance.tolist()})
    write_rounded(trained, output, {REAL_FEATURES: held.encode()}, report)


def measured(folder: Path, data: ImageData, classifier: Path, count: int) -> dict[str, float]:
    """Measure a checkpoint in PyTorch.

    Raises:
        InputError: other classes than those of the data, or too few pictures for a Fréchet distance without bias.
    """
    images, labels, _, names = picture_quality.generate(str(folder), count)
    if data.class_names != names:
        raise InputError("the pictures have other classes", hint=f"the model's: {', '.join(names)}")
    found = picture_quality.measure(images, labels, picture_quality.load_classifier(classifier), data)
    kept = {name: value for key, name in MEASURES.items() if (value := found[key]) is not None}
    if MEASURES["unbiased"] not in kept:
        raise InputError(f"{count} pictures are too few for a Fréchet distance", hint="give a larger --count")
    return kept


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the checkpoint that is shipped of a trained model of pictures.")
    parser.add_argument("trained", type=Path, help="its checkpoint")
    parser.add_argument("data", type=Path, help="the pictures that it was trained on")
    parser.add_argument("--classifier", type=Path, required=True, help="trained on the same pictures")
    parser.add_argument("--count", type=int, default=720, help="pictures in all (default 720)")
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        report = json.loads((given.trained / REPORT).read_text(encoding="utf-8"))
        source = given.output / SOURCE
        files = {SOURCE: source.read_bytes()} if source.exists() else {}
        data, evaluator = load_images(given.data), given.output.with_name(f"{given.output.name}_classifier")
        with tempfile.TemporaryDirectory() as scratch:
            half, rounded = Path(scratch) / "model", Path(scratch) / "classifier"
            write_rounded(given.trained, half, {}, report)
            write_classifier(given.classifier, rounded, data)
            quality = measured(half, data, rounded, given.count)
        report |= {"quality": quality, "samples": given.count, "data": f"pictures like those of {given.data.name!r}"}
        write_rounded(given.trained, given.output, files, report)
        write_classifier(given.classifier, evaluator, data)
    except AigcError as err:
        parser.error(str(err))
    print(", ".join(f"{name} {value:.4g}" for name, value in quality.items()))


if __name__ == "__main__":
    main()
