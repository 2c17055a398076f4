"""Arrays of a bundle's reference: those of its request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aigc_runtime.bundle.bundle import Bundle
from aigc_runtime.bundle.manifest import Manifest, ReferenceGeneration
from aigc_runtime.bundle.reference_arrays import read_request
from aigc_runtime.core.tensors import Array
from aigc_runtime.errors import BundleError

CONTEXT = np.linspace(-1, 1, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


@dataclass(frozen=True)
class OneArray:
    """A bundle whose files all hold one array."""

    whole: Bundle
    held: Array

    @property
    def manifest(self) -> Manifest:
        return self.whole.manifest

    def array(self, name: str) -> Array:
        assert name == "context.npy"
        return self.held


@pytest.fixture
def bundle(toy_bundles: Path) -> Bundle:
    found = Bundle.open(toy_bundles / "toy_unet")
    generation = ReferenceGeneration(
        request={"batch": 2, "seed": 7},
        arrays={"encoder_hidden_states": "context.npy"},
        outputs={"images": "ref.generation.npy"},
    )
    object.__setattr__(found.manifest.reference, "generation", generation)
    return found


def test_a_request_has_its_arrays(bundle: Bundle) -> None:
    found = read_request(OneArray(bundle, CONTEXT))  # type: ignore[arg-type]
    assert found.keys() == {"batch", "seed", "encoder_hidden_states"}
    assert found["encoder_hidden_states"] is CONTEXT


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (CONTEXT.astype(np.float64), r"request\.encoder_hidden_states is float64 \[2, 3, 4\]"),
        (CONTEXT[0], r"is float32 \[3, 4\]"),
        (CONTEXT[:0], r"is float32 \[0, 3, 4\]"),
        (np.where(CONTEXT > 0.9, np.nan, CONTEXT), r"request\.encoder_hidden_states holds NaN or infinity"),
        (np.where(CONTEXT > 0.9, np.float32(np.inf), CONTEXT), r"holds NaN or infinity"),
    ],
)
def test_an_array_that_no_request_can_have_is_refused(held: Array, message: str, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=message):
        read_request(OneArray(bundle, held))  # type: ignore[arg-type]
