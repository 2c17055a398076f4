"""Golden numbers drawn by PyTorch 2.13 on a CPU, so that a device without torch tests the same stream."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

from aigc_runtime.errors import InputError
from aigc_runtime.generation import rng
from aigc_runtime.generation.rng import RANDN_MAX_ERROR, TorchGenerator, check_seed

# seed -> the first numbers of torch.Generator().manual_seed(seed): rand times 2**24, float64 rand times 2**53,
# randint(-5, 5), randint(-2**62, 2**62), randint(-2**63, 2**63 - 1), randn(3) and randn(20).
# fmt: off
GOLDEN: dict[int, dict[str, Any]] = {
    0: {
        "rand32": [8325804, 12888623, 1484405, 2215104],
        "rand64": [8737460674931247, 6375474555112640],
        "small": [-1, 4, -2, -5, -2, 4, 2, -2],
        "wide": [-3711235831533098449, -642142871786238784, -2716036421228801285],
        "widest": [900450186894289455, 3969543146641149120],
        "randn3": [1.5409960746765137, -0.293428897857666, -2.1787893772125244],
        "randn20": [
            -1.1258398294448853, -1.152360200881958, -0.2505785822868347, -0.4338788092136383,
            0.5988394618034363, -1.5550950765609741, -0.3413603901863098, 1.85300612449646,
            0.46809640526771545, -0.1577124446630478, 1.4436601400375366, 0.26604941487312317,
            1.3893661499023438, 1.586334228515625, 0.946298360824585, -0.843676745891571,
            0.9318265914916992, 1.2590092420578003, 2.0049805641174316, 0.05373690277338028,
        ],
    },
    1234: {
        "rand32": [486191, 6742739, 4359462, 6151221],
        "rand64": [2088176582058707, 709351721262133],
        "small": [0, -4, 1, 0, 1, -1, -3, 0],
        "wide": [-1078775733986860333, -2359176853020877771, 3462965527040974196],
        "widest": [-5690461752414248237, 2252509165406510133],
        "randn3": [0.0461304634809494, 0.4024028182029724, -1.0115290880203247],
        "randn20": [
            -0.1117185652256012, -0.49659010767936707, 0.16307370364665985, -0.8816877603530884,
            0.2890971899032593, 0.4898708462715149, -0.38527461886405945, -0.7120345830917358,
            0.6369126439094543, -0.7140800952911377, -1.0831243991851807, -0.5547242164611816,
            -1.3248119354248047, 0.6969805359840393, -0.6630538702011108, 1.215756893157959,
            -2.5273351669311523, 1.477784276008606, -0.16962362825870514, -0.9918573498725891,
        ],
    },
    2**32 + 5: {
        "rand32": [13929315, 2115790, 15224815, 13756093],
        "rand64": [5782757089233102, 2339691299989181],
        "small": [-4, -1, 2, 0, 1, -5, -3, -2],
        "wide": [-516634799685744434, 2227117907221014205, -798390687407154058],
        "widest": [-5128320818113132338, 6838803925648402109],
        "randn3": [-0.4867807626724243, -0.6038215756416321, -0.5580962300300598],
        "randn20": [
            1.8423298597335815, 0.5188871622085571, -1.7119213342666626, -1.7013792991638184,
            -0.1296626776456833, -0.6017656326293945, 0.14499856531620026, -0.14982716739177704,
            2.614577054977417, -0.4340229630470276, 0.35233545303344727, -0.06455148011445999,
            1.4829323291778564, 0.49403807520866394, 0.24921877682209015, 1.7470314502716064,
            0.7447769641876221, 0.0316568948328495, -1.1724143028259277, -1.5069403648376465,
        ],
    },
    2**64 - 1: {
        "rand32": [16673187, 9584930, 9563148, 830535],
        "rand64": [8560398581252386, 5044613304593479],
        "small": [-4, 3, 1, 4, -5, -5, -3, -1],
        "wide": [-2810692968152678110, 2995434765878602823, 720074238920031808],
        "widest": [-7422378986580066014, 7607120784305990727],
        "randn3": [1.2197630405426025, -0.3929794728755951, 1.0230751037597656],
        "randn20": [
            -2.664297580718994, -1.0910485982894897, 0.45144742727279663, 0.22836069762706757,
            0.306219220161438, 0.424003005027771, 0.265636146068573, -3.1492953300476074,
            -2.843764305114746, 0.946320116519928, -1.0442572832107544, 0.5510715842247009,
            -0.029644504189491272, 0.3832170367240906, -0.16095319390296936, 1.9678914546966553,
            1.6243832111358643, -1.1137654781341553, 0.6557478308677673, -1.2096902132034302,
        ],
    },
}
# fmt: on


@pytest.mark.parametrize("seed", GOLDEN)
def test_uniform_numbers_are_pytorchs_bit_for_bit(seed: int) -> None:
    golden = GOLDEN[seed]
    u32 = TorchGenerator(seed).rand((2, 2))
    assert u32.dtype == np.float32
    assert (u32.ravel() * 2**24).tolist() == golden["rand32"]
    u64 = TorchGenerator(seed).rand((2,), dtype="float64")
    assert u64.dtype == np.float64
    assert (u64 * 2**53).tolist() == golden["rand64"]


@pytest.mark.parametrize("seed", GOLDEN)
def test_integers_are_pytorchs(seed: int) -> None:
    golden = GOLDEN[seed]
    small = TorchGenerator(seed).randint(-5, 5, (8,))
    assert small.dtype == np.int64
    assert small.tolist() == golden["small"]
    assert TorchGenerator(seed).randint(-(2**62), 2**62, (3,)).tolist() == golden["wide"]
    assert TorchGenerator(seed).randint(-(2**63), 2**63 - 1, (2, 1)).ravel().tolist() == golden["widest"]


@pytest.mark.parametrize("seed", GOLDEN)
@pytest.mark.parametrize(("name", "shape"), [("randn3", (3,)), ("randn20", (4, 5))])
def test_normal_numbers_are_pytorchs_within_the_bound(seed: int, name: str, shape: tuple[int, ...]) -> None:
    normal = TorchGenerator(seed).randn(shape)
    assert normal.dtype == np.float32
    assert normal.shape == shape
    np.testing.assert_allclose(normal.ravel(), GOLDEN[seed][name], rtol=0, atol=RANDN_MAX_ERROR)


def test_calls_mix_as_they_do_in_pytorch() -> None:
    g = TorchGenerator(42)
    scalar = g.randn(())
    assert scalar.shape == ()
    assert float(scalar) == pytest.approx(0.33669036626815796, abs=RANDN_MAX_ERROR)
    assert g.rand((2,)).tolist() == [0.3904482126235962, 0.600895345211029]
    np.testing.assert_allclose(
        g.randn((17,))[[0, 15, 16]], [-0.04306747764348984, -0.06307438015937805, -0.8285542726516724], atol=3e-6
    )
    # The first is the second number of the pair that the scalar above began.
    np.testing.assert_allclose(g.randn((2,)), [0.12880940735340118, -0.16030240058898926], atol=1e-7)
    assert g.randint(0, 2**40, (2,)).tolist() == [1096471412187, 804732396495]
    assert g.randn((0,)).shape == (0,)
    assert g.rand((), dtype="float64") == 0.715705135378833
    np.testing.assert_allclose(g.randn((1,)), [-2.2161147594451904], atol=1e-6)


def test_only_the_low_32_bits_of_a_seed_count() -> None:
    assert TorchGenerator(7).rand((4,)).tolist() == TorchGenerator(2**32 + 7).rand((4,)).tolist()
    assert TorchGenerator(7).rand((4,)).tolist() != TorchGenerator(8).rand((4,)).tolist()


def test_sizes_of_zero_draw_nothing() -> None:
    g = TorchGenerator(1)
    assert g.rand((0, 3)).shape == (0, 3)
    assert g.randn((2, 0)).shape == (2, 0)
    assert g.randint(0, 9, (0,)).dtype == np.int64
    assert g.rand((3,)).tolist() == TorchGenerator(1).rand((3,)).tolist()


def test_uniform_is_below_one_and_normal_is_finite() -> None:
    g = TorchGenerator(3)
    u = g.rand((200_000,))
    assert u.min() >= 0
    assert u.max() < 1
    assert np.isfinite(g.randn((200_000,))).all()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", None, True, np.bool_(True), np.float32(3)])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(InputError, match=r"seed is .*\n?.*must be an integer from 0 to 2\*\*64 - 1"):
        TorchGenerator(seed)  # type: ignore[arg-type]


def test_numpy_integers_are_seeds() -> None:
    assert check_seed(np.uint64(2**64 - 1)) == 2**64 - 1
    assert type(check_seed(np.int32(4))) is int


@pytest.mark.parametrize("shape", [(-1,), (2.0,), 3, [3], None])
def test_bad_shapes(shape: object) -> None:
    for draw in (TorchGenerator(0).rand, TorchGenerator(0).randn, lambda s: TorchGenerator(0).randint(0, 2, s)):
        with pytest.raises(InputError, match="must be a tuple of integers of at least 0"):
            draw(shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 2), (-(2**63) - 1, 0), (0, 2**63)])
def test_bad_ranges(low: int, high: int) -> None:
    with pytest.raises(InputError, match="need low < high, both in the range of int64"):
        TorchGenerator(0).randint(low, high, (1,))


def test_bounds_that_are_no_integers() -> None:
    with pytest.raises(InputError, match=r"low is 0, high is 2\.5\nmust be integers"):
        TorchGenerator(0).randint(0, 2.5, (1,))  # type: ignore[arg-type]


def test_bad_dtype() -> None:
    with pytest.raises(InputError, match="dtype is 'float16'\nvalid: float32, float64"):
        TorchGenerator(0).rand((1,), dtype="float16")


def test_doctests() -> None:
    results = doctest.testmod(rng)
    assert results.attempted
    assert not results.failed
