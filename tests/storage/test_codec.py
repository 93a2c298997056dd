from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tachograph.storage import codec
from tachograph.storage.codec import CodecError
from tachograph.storage.frame import ABSENT, STALE_NAN, FloatArray, IntArray
from tachograph.storage.model import ABSENT_BITS, STALE_NAN_BITS

NEEDS_PCODEC = pytest.mark.skipif(not codec.HAS_PCODEC, reason="pcodec has no wheel here")
BOTH = pytest.mark.parametrize(
    "pco", [pytest.param(True, marks=NEEDS_PCODEC), False], ids=["pco", "no pco"]
)
T0 = 1_767_225_600_000
ODD = [0.0, -0.0, np.inf, -np.inf, np.nan, STALE_NAN, 5e-324, 1.7976931348623157e308]


def bits(values: FloatArray) -> list[int]:
    return list(values.view(np.uint64).tolist())


def floats(*values: float) -> FloatArray:
    return np.array(values, dtype=np.float64)


def from_bits(*values: int) -> FloatArray:
    return np.array(values, dtype=np.uint64).view(np.float64)


def any_floats() -> st.SearchStrategy[FloatArray]:
    one = st.one_of(
        st.integers(0, 2**64 - 1).map(lambda b: struct.unpack("<d", struct.pack("<Q", b))[0]),
        st.sampled_from(ODD),
        st.integers(-(2**60), 2**60).map(float),
        st.integers(-(10**9), 10**9).map(lambda i: i / 1000),
    )
    runs = st.lists(st.tuples(one, st.integers(1, 40)), max_size=30)
    return runs.map(lambda rs: np.array([v for v, n in rs for _ in range(n)], dtype=np.float64))


@BOTH
@settings(max_examples=150, deadline=None)
@given(values=any_floats())
def test_any_floats_come_back_bit_for_bit(values: FloatArray, pco: bool) -> None:
    blob = codec.encode_floats(values, pco=pco)
    assert bits(codec.decode_floats(blob, len(values))) == bits(values)


@BOTH
@settings(max_examples=150, deadline=None)
@given(values=any_floats(), seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_any_chunk_with_absent_cells_comes_back(
    values: FloatArray, seed: int, share: float, pco: bool
) -> None:
    absent = np.random.default_rng(seed).random(len(values)) < share
    cells = np.where(absent, ABSENT, values)
    blob = codec.encode_chunk(cells, pco=pco)
    decoded, has_absent = codec.decode_chunk(blob, len(cells))
    assert bits(decoded) == bits(cells)
    assert has_absent == bool((cells.view(np.uint64) == ABSENT_BITS).any())


@BOTH
@pytest.mark.parametrize("delta", [True, False])
@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-99, 99), max_size=200))
def test_any_integers_come_back(values: list[int], delta: bool, pco: bool) -> None:
    ints: IntArray = np.array(values, dtype=np.int64)
    decoded = codec.decode_ints(codec.encode_ints(ints, delta=delta, pco=pco), len(ints))
    assert decoded.dtype == np.int64
    assert decoded.tolist() == values


@BOTH
@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.integers(1, 20_000), min_size=1, max_size=300),
    start=st.integers(0, 2**42),
)
def test_rising_times_come_back(steps: list[int], start: int, pco: bool) -> None:
    times: IntArray = start + np.cumsum(np.array(steps, dtype=np.int64))
    assert codec.decode_ints(codec.encode_ints(times, pco=pco), len(times)).tolist() == (
        times.tolist()
    )


@BOTH
@pytest.mark.parametrize("n", [1, 2, 3, 12, 33, 360])
def test_signalling_stale_marker_keeps_its_payload(n: int, pco: bool) -> None:
    values = np.linspace(1, 2, n)
    values[-1] = STALE_NAN
    decoded = codec.decode_floats(codec.encode_floats(values, pco=pco), n)
    assert bits(decoded)[-1] == STALE_NAN_BITS


def test_decoding_fills_the_given_row() -> None:
    rows = np.zeros((2, 50))
    for values in (np.arange(50.0), np.sqrt(np.arange(50.0)), np.full(50, 7.0)):
        out = codec.decode_floats(codec.encode_floats(values), 50, rows[1])
        assert out.base is rows
        assert rows[1].tolist() == values.tolist()
    cells = np.where(np.arange(50) % 7 == 3, ABSENT, np.arange(50.0))
    codec.decode_chunk(codec.encode_chunk(cells), 50, rows[1])
    assert bits(rows[1]) == bits(cells)
    assert not rows[0].any()


def test_absent_free_chunk_is_told_so() -> None:
    blob = codec.encode_chunk(floats(1.5, 2.5, 4.0))
    assert codec.decode_chunk(blob, 3)[1] is False


def test_chunk_of_absent_cells_alone_is_four_bytes() -> None:
    cells = np.full(360, ABSENT)
    blob = codec.encode_chunk(cells)
    assert len(blob) == 4
    assert bits(codec.decode_chunk(blob, 360)[0]) == bits(cells)


@NEEDS_PCODEC
@pytest.mark.parametrize(
    ("values", "most"),
    [
        (np.zeros(360), 1),
        (np.full(360, 1.0), 3),
        (np.full(360, np.pi), 9),
        (1e6 + 15.0 * np.arange(360), 9),  # regular
        (np.round(20 + np.sin(np.arange(12)), 2), 20),  # too few for pco
        (floats(3.25), 3),
        (np.random.default_rng(1).normal(size=12), 8 * 12 + 1),  # no structure: raw
    ],
    ids=["zero", "one", "pi", "regular", "twelve decimals", "one value", "noise"],
)
def test_short_forms_are_short(values: FloatArray, most: int) -> None:
    assert len(codec.encode_floats(values)) <= most


def test_regular_times_take_eleven_bytes() -> None:
    assert len(codec.encode_ints(T0 + 10_000 * np.arange(8640, dtype=np.int64))) <= 12


def test_series_that_starts_late_adds_four_bytes() -> None:
    values = np.round(np.random.default_rng(2).normal(50, 1, 360), 2)
    late = values.copy()
    late[:200] = ABSENT
    assert len(codec.encode_chunk(late)) == len(codec.encode_floats(values[200:])) + 5


def test_crc_tells_the_place_too() -> None:
    blob = codec.encode_floats(np.arange(100.0))
    assert codec.crc(blob, 7, 100) == codec.crc(blob, 7, 100)
    assert codec.crc(blob, 8, 100) != codec.crc(blob, 7, 100)
    assert codec.crc(blob[:-1] + b"?", 7, 100) != codec.crc(blob, 7, 100)


def _gauge() -> FloatArray:
    i = np.arange(40)
    return np.round(20 + (i * 7 % 11) / 10 - (i * 5 % 13) / 100, 2)


def _golden() -> dict[str, tuple[str, FloatArray]]:
    third = np.arange(40) / 3
    gaps = _gauge()
    gaps[:30] = ABSENT
    scattered = _gauge()
    scattered[::3] = ABSENT
    return {
        "constant": ("00f03f", np.full(40, 1.0)),
        "pco": (
            "0104011041048052555555555505000c50555555555555006000545555555555050001b3aaaaaaaa"
            "aa2a00e80300000000000000807757df7fa9a57a01f80750555555555595feabaaaaaaaaaa1a0000"
            "00000000000440555555555555005855555555551500545555555555050000000000000000000000"
            "000000000000000000000000000000000000000000496adb02",
            third,
        ),
        "packed": ("0212017d32dc0d000506", np.array([1.25, 1.5, 9.0, 1.25])),
        "packed, deflated": ("024202d0076b8a9c130944f64d400426407464138400a139600200", _gauge()),
        "packed bits": (
            "027f005bc510b66acdaab090302002324068154328900805835550404d2105512e2e2e5630608280"
            "7a060c0000",
            third[:20],
        ),
        "raw": (
            "03000000000000f87f0000000000000080020000000000f07f",
            floats(np.nan, -0.0, STALE_NAN),
        ),
        "scaled": (
            "041202d00704011051040035fd0710f81f4041804038010200800e9c02e7f0822616edce5e0200",
            _gauge(),
        ),
        "regular": ("050102e8030105", 100 + 0.5 * np.arange(40)),
        "runs": ("820202001e0202d307823f599c59823f599c", gaps),
        "bitmap": (
            "820005b66ddbb66d02021108594259423f283f4282998299829982423f283f283f42594259",
            scattered,
        ),
    }


@NEEDS_PCODEC
@pytest.mark.parametrize("name", list(_golden()))
def test_blobs_of_the_first_version_stay_readable(name: str) -> None:
    blob, expected = _golden()[name]
    decoded, _ = codec.decode_chunk(bytes.fromhex(blob), len(expected))
    assert bits(decoded) == bits(expected)


def test_plain_integers_of_the_first_version_stay_readable() -> None:
    blob, expected = bytes.fromhex("060000011203040f"), [-1, 9, -2, 2, -8]
    assert codec.decode_ints(blob, 5).tolist() == expected
    assert codec.encode_ints(np.array(expected), delta=False) == blob


def _samples() -> list[tuple[bytes, int]]:
    rng = np.random.default_rng(5)
    gaps = np.where(rng.random(90) < 0.3, ABSENT, np.round(rng.normal(9, 1, 90), 1))
    rows = [
        np.full(30, 2.5),
        rng.normal(size=90),
        np.round(rng.normal(9, 1, 90), 1),
        np.cumsum(rng.poisson(3, 20)).astype(np.float64),
        gaps,
        np.concatenate([np.full(60, ABSENT), np.arange(30.0) ** 2]),
        np.arange(30.0),
        floats(np.nan, 1.0),
    ]
    blobs = [(codec.encode_chunk(row, pco=pco), len(row)) for row in rows for pco in (True, False)]
    times = T0 + np.cumsum(rng.integers(900, 1100, 60))
    blobs += [(codec.encode_ints(times, pco=pco), 60) for pco in (True, False)]
    noise = rng.integers(-9, 1000, 60)
    return blobs + [(codec.encode_ints(noise, delta=False, pco=pco), 60) for pco in (True, False)]


@NEEDS_PCODEC
def test_damaged_blobs_raise_only_codec_errors() -> None:
    rng = random.Random(7)
    samples = _samples()
    refused = 0
    for _ in range(6000):
        blob, n = rng.choice(samples)
        damaged = bytearray(blob)
        match rng.randrange(4):
            case 0:
                del damaged[rng.randrange(len(damaged)) :]
            case 1:
                damaged += rng.randbytes(rng.randint(1, 9))
            case 2:
                damaged = bytearray(rng.randbytes(rng.randint(0, 40)))
            case _:
                for _ in range(rng.randint(1, 4)):
                    damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        for n_asked in (n, rng.randint(0, 200)):
            for decode in (codec.decode_chunk, codec.decode_floats, codec.decode_ints):
                try:
                    decode(bytes(damaged), n_asked)
                except CodecError:
                    refused += 1
    assert refused > 6000
