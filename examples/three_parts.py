"""A program of three parts in one bundle: an encoder, a loop that runs several times, a decoder.

    python examples/three_parts.py

Each part is one graph and becomes one engine. A tensor that a part gives goes to the parts that take one of its name.
The loop feeds its output back to its input; the number of its runs is a setting of the pipeline, and in no graph.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import aigc_export
import aigc_runtime

RUNS = 4


class Encoder(nn.Module):
    """A picture of any size as features of half its height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"features": torch.tanh(self.conv(image))}


class Refine(nn.Module):
    """One step: takes features and gives better ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {"refined": features + 0.1 * torch.tanh(self.conv(features))}


class Decoder(nn.Module):
    """Features as a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, refined: Tensor) -> dict[str, Tensor]:
        return {"picture": nn.functional.pixel_shuffle(self.conv(refined), 2)}


def make_program() -> aigc_export.Program:
    torch.manual_seed(0)
    image, features = torch.rand(1, 3, 16, 16), torch.rand(1, 8, 8, 8)
    parts = [
        aigc_export.part(Encoder().eval(), {"image": image}, name="encoder"),
        aigc_export.part(Refine().eval(), {"features": features}, name="refine"),
        aigc_export.part(Decoder().eval(), {"refined": features}, name="decoder"),
    ]
    stages = (
        aigc_export.Stage(role="encoder"),
        aigc_export.Stage(role="refine", repeat=RUNS, feedback={"refined": "features"}),
        aigc_export.Stage(role="decoder"),
    )
    return aigc_export.program(parts, settings=aigc_export.TensorsSettings(stages=stages), name="three-parts")


def main(output: Path = Path("out/three-parts")) -> None:
    program = make_program()
    aigc_export.export(program, output=output, quality_samples=4)

    image = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    with aigc_runtime.open_pipeline(output) as pipeline:
        picture = pipeline.generate({"image": image})["picture"]

    # The same in PyTorch.
    encoder, refine, decoder = (program.parts[name].module.get_submodule("model") for name in program.parts)
    with torch.no_grad():
        features = encoder(torch.from_numpy(image))["features"]
        for _ in range(RUNS):
            features = refine(features)["refined"]
        expected = decoder(features)["picture"].numpy()
    np.testing.assert_allclose(picture, expected, atol=1e-5)
    print(f"{picture.shape} as in PyTorch, after {RUNS} runs of the loop")


if __name__ == "__main__":
    main()
