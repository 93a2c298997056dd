"""
Turns a run of samples into bytes and back, bit for bit.

A blob is one tag byte and a body. How many values it holds is not in it: whoever keeps the blob
knows that.

==== ========= =========================================================================
tag  name      body
==== ========= =========================================================================
0    constant  the value's 8 bytes, least significant first, leading zero bytes left out
1    pco       a pco page of float64
2    packed    ints; first value, then zigzag differences, byte planes, maybe deflated
3    raw       8 bytes a value, least significant first
4    scaled    ints; first value, then a pco page of the distances from it
5    regular   ints; first value and step
6    plain     ints; zigzag numbers, byte planes, maybe deflated
+128 (bit 7)   a presence map stands between the tag and the body (see ``encode_chunk``)
==== ========= =========================================================================

*Ints* begin with two bytes, ``exponent | width << 4 | deflated << 6`` and the length of the first
value that follows. They stand for themselves in a blob of integers and for ``int / 10**exponent``
in a blob of floats; exponent 15 means the bits of the floats themselves. Most metrics are short
decimals: as integers in the narrowest type that holds them they take 14% less than pco's own float
modes at 360 values and half at 12 (benchmarks/codec.py).
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

from .errors import StorageError
from .frame import FloatArray, IntArray
from .model import ABSENT_BITS

try:
    from pcodec import ChunkConfig, DeltaSpec, PagingSpec, wrapped

    HAS_PCODEC = True
except ImportError:  # no wheel for musl nor armv7: tag 2 serves instead, some 10% bigger
    HAS_PCODEC = False

CONSTANT: Final = 0
PCO: Final = 1
PACKED: Final = 2
RAW: Final = 3
SCALED: Final = 4
REGULAR: Final = 5
PLAIN: Final = 6
HAS_PRESENCE: Final = 0x80

_BITS_EXPONENT: Final = 15
#: Nanoseconds in seconds need 9 decimals; more of them are noise that scaling cannot shorten.
POWERS: Final = tuple(10.0**exponent for exponent in range(10))
#: Integers up to this are floats exactly.
_EXACT_INT: Final = 2**53
#: Up to here plain differences may beat a pco page, whose own header takes some 14 bytes.
_PACK_MAX: Final = 32
#: The most values one pco page takes.
_PAGE_MAX: Final = 1 << 24
#: So many values are tried, alone, before all of them are.
_PROBE: Final = 4

_Numbers = npt.NDArray[np.generic]
#: Types by width code, of differences and of pages.
_UNSIGNED: Final[tuple[np.dtype[np.generic], ...]] = tuple(
    map(np.dtype, ("<u1", "<u2", "<u4", "<u8"))
)
_SIGNED: Final[tuple[np.dtype[np.generic], ...]] = tuple(map(np.dtype, ("i1", "i2", "i4", "i8")))


class CodecError(StorageError):
    """A blob cannot be read: it is damaged, or written by a codec that is not there."""


def crc(blob: bytes, *context: int) -> int:
    """CRC32 of a blob and of the numbers that say where it belongs (its row's key, its length)."""
    return zlib.crc32(blob, zlib.crc32(struct.pack(f"<{len(context)}q", *context)))


def encode_floats(values: FloatArray, *, pco: bool = HAS_PCODEC) -> bytes:
    """Encode any float64 values, NaN payloads and -0.0 included; ``pco=False`` avoids pcodec."""
    values = np.ascontiguousarray(values, dtype=np.float64)
    n = len(values)
    if n == 0:
        return bytes((RAW,))
    bits = values.view(np.uint64)
    if (bits == bits[0]).all():
        return bytes((CONSTANT,)) + values[:1].astype("<f8").tobytes().lstrip(b"\0")
    scaled = decimal_scale(values)
    if scaled is not None:
        return _encode_scaled(*scaled, pco=pco)
    blobs = [bytes((RAW,)) + values.astype("<f8", copy=False).tobytes()]
    if pco and n <= _PAGE_MAX:
        blobs.append(bytes((PCO,)) + _to_pco(values))
    else:
        blobs.append(_encode_packed(values.view(np.int64), _BITS_EXPONENT))
    return min(blobs, key=len)


def decode_floats(blob: bytes, n: int, out: FloatArray | None = None) -> FloatArray:
    """
    Decode ``n`` float64 values, into ``out`` (``[n]``, contiguous) if it is given.

    Raises:
        CodecError: The blob is damaged; ``out`` may hold anything then.
    """
    return _decode_floats(_tag(blob), blob, 1, n, np.empty(n) if out is None else out)


def encode_ints(values: IntArray, *, delta: bool = True, pco: bool = HAS_PCODEC) -> bytes:
    """
    Encode int64 values.

    Args:
        delta: True suits values that follow each other, as times do; False suits noise.
    """
    values = np.ascontiguousarray(values, dtype=np.int64)
    return _encode_scaled(values, 0, delta=delta, pco=pco) if len(values) else bytes((RAW,))


def decode_ints(blob: bytes, n: int) -> IntArray:
    """
    Decode ``n`` int64 values.

    Raises:
        CodecError: The blob is damaged.
    """
    tag = _tag(blob)
    if tag == RAW:
        return _raw(blob, 1, n, "<i8").astype(np.int64)
    exponent, ints = _decode_scaled(tag, blob, 1, n)
    if exponent:
        raise CodecError("damaged blob: floats where integers belong")
    return ints


def encode_chunk(values: FloatArray, has_absent: bool = True, *, pco: bool = HAS_PCODEC) -> bytes:
    """
    Encode the cells of one row of a frame, leaving out the absent ones.

    Where cells are absent a presence map follows the tag: a form byte, the map's length as a
    varint, and the map. Form 0 is one bit a cell (first cell in the lowest bit, 1 = present),
    1 the same deflated, 2 the lengths of the runs as varints, present first, the last run left out.

    Args:
        has_absent: False promises that no cell is absent, and saves the look.
    """
    if has_absent:
        present = values.view(np.uint64) != ABSENT_BITS
        if not present.all():
            body = encode_floats(values[present], pco=pco)
            return b"".join((bytes((body[0] | HAS_PRESENCE,)), _encode_presence(present), body[1:]))
    return encode_floats(values, pco=pco)


def decode_chunk(blob: bytes, n: int, out: FloatArray | None = None) -> tuple[FloatArray, bool]:
    """
    Decode ``n`` cells, into ``out`` (``[n]``, contiguous) if it is given.

    Returns:
        The cells, and whether some are absent.

    Raises:
        CodecError: The blob is damaged; ``out`` may hold anything then.
    """
    tag = _tag(blob)
    if out is None:
        out = np.empty(n)
    if not tag & HAS_PRESENCE:
        return _decode_floats(tag, blob, 1, n, out), False
    present, at = _decode_presence(blob, n)
    count = int(np.count_nonzero(present))
    bits = out.view(np.uint64)
    values = _decode_floats(tag & ~HAS_PRESENCE, blob, at, count, np.empty(count))
    bits.fill(ABSENT_BITS)
    bits[present] = values.view(np.uint64)
    return out, count < n


def decimal_scale(values: FloatArray) -> tuple[IntArray, int] | None:
    """
    Find integers and the least exponent (0 to 9) with ``ints / 10**exponent == values``, bit for
    bit; there are none for NaN, infinity, -0.0 and what isn't a short decimal.
    """
    # Compared as bytes, because -0.0 is not 0 and NaN is not NaN; and from the integers, so that
    # whatever the cast makes of infinity or of 1e300 is found out too.
    wanted = values.tobytes()
    probe = values[:: max(1, len(values) // _PROBE)].tolist()
    with np.errstate(invalid="ignore", over="ignore"):
        ints = values.astype(np.int64)
        if ints.astype(np.float64).tobytes() == wanted:
            return ints, 0
        if not all(map(math.isfinite, probe)):
            return None
        for exponent in range(1, len(POWERS)):
            power = POWERS[exponent]
            if all(_is_decimal(value, power) for value in probe):
                ints = np.rint(values * power).astype(np.int64)
                if (ints / power).tobytes() == wanted:
                    return ints, exponent
    return None


# --- Choosing ---------------------------------------------------------------------------------


def _is_decimal(value: float, power: float) -> bool:
    scaled = value * power
    return abs(scaled) < _EXACT_INT and round(scaled) / power == value


def _encode_scaled(ints: IntArray, exponent: int, *, pco: bool, delta: bool = True) -> bytes:
    n = len(ints)
    first = int(ints[0])
    steps = ints[1:] - ints[:-1]  # may wrap around, and wraps back when summed
    step = int(steps[0]) if n > 1 else 0
    if (steps == step).all():
        return bytes((REGULAR,)) + _ints_header(exponent, 0, first) + _sized(step)
    if not pco or n > _PAGE_MAX:
        return _encode_packed(ints, exponent, delta=delta)
    low, high = int(ints.min()), int(ints.max())
    is_exact = low >= -_EXACT_INT and high <= _EXACT_INT  # then floats may add up the parts
    if is_exact and low - first >= -(2**15) and high - first < 2**15:
        width = 1
    elif is_exact and low - first >= -(2**31) and high - first < 2**31:
        width = 2
    else:
        width, first = 3, 0
    page = _to_pco((ints - first).astype(_SIGNED[width], copy=False), delta=delta)
    blob = bytes((SCALED,)) + _ints_header(exponent, width, first) + page
    if n <= _PACK_MAX:
        return min(blob, _encode_packed(ints, exponent, delta=delta), key=len)
    return blob


def _encode_packed(ints: IntArray, exponent: int, *, delta: bool = True) -> bytes:
    numbers = ints[1:] - ints[:-1] if delta else ints
    tag, first = (PACKED, int(ints[0])) if delta else (PLAIN, 0)
    zigzag = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    most = int(zigzag.max()) if len(zigzag) else 0
    width = next(code for code, kind in enumerate(_UNSIGNED) if most < 1 << 8 * kind.itemsize)
    narrow = zigzag.astype(_UNSIGNED[width])
    planes = narrow.view(np.uint8).reshape(len(narrow), -1).T.tobytes()
    short = _deflate(planes)
    if len(short) < len(planes):
        return bytes((tag,)) + _ints_header(exponent, width | 4, first) + short
    return bytes((tag,)) + _ints_header(exponent, width, first) + planes


# --- Reading ----------------------------------------------------------------------------------


def _tag(blob: bytes) -> int:
    if not blob:
        raise CodecError("damaged blob: it is empty")
    return blob[0]


def _decode_floats(tag: int, blob: bytes, at: int, n: int, out: FloatArray) -> FloatArray:
    if tag == CONSTANT:
        if len(blob) - at > 8:
            raise CodecError(f"damaged blob: {len(blob) - at} bytes for a constant")
        out.view(np.uint64).fill(int.from_bytes(blob[at:].rjust(8, b"\0"), "little"))
    elif tag == PCO:
        _from_pco(blob, at, n, out, "f64")
    elif tag == RAW:
        out.view(np.uint64)[:] = _raw(blob, at, n, "<u8")
    elif tag == SCALED:
        exponent, first, page = _read_page(blob, at, n)
        np.add(page, float(first), out=out, dtype=np.float64)
        if exponent:
            np.divide(out, _power(exponent), out=out)
    else:
        exponent, ints = _decode_scaled(tag, blob, at, n)
        if exponent == _BITS_EXPONENT:
            out.view(np.int64)[:] = ints
        else:
            np.divide(ints, _power(exponent), out=out)
    return out


def _power(exponent: int) -> float:
    if exponent >= len(POWERS):
        raise CodecError(f"damaged blob: exponent {exponent}")
    return POWERS[exponent]


def _read_page(blob: bytes, at: int, n: int) -> tuple[int, int, IntArray]:
    """Return exponent, first value and the distances from it, in whatever width they have."""
    exponent, width, first, at = _read_ints_header(blob, at)
    if not 1 <= width <= 3:
        raise CodecError("damaged blob: bad header of scaled integers")
    page: IntArray = np.empty(n, _SIGNED[width])
    _from_pco(blob, at, n, page, f"i{8 << width}")
    return exponent, first, page


def _decode_scaled(tag: int, blob: bytes, at: int, n: int) -> tuple[int, IntArray]:
    if tag not in (PACKED, SCALED, REGULAR, PLAIN):
        raise CodecError(f"damaged blob: unknown tag {tag}")
    if tag == SCALED:
        exponent, first, page = _read_page(blob, at, n)
        return exponent, np.add(page, first, dtype=np.int64)
    exponent, width, first, at = _read_ints_header(blob, at)
    if tag == REGULAR:
        step, at = _read_sized(blob, at)
        if at != len(blob) or width:
            raise CodecError("damaged blob: bad length of regular integers")
        ints = np.arange(n, dtype=np.int64)
        ints *= step
        ints += first
    elif tag == PLAIN:
        ints = _read_planes(blob, at, n, width)
    else:
        ints = np.empty(n, np.int64)
        ints[:1] = first
        ints[1:] = _read_planes(blob, at, n - 1, width)
        np.cumsum(ints, out=ints)
    return exponent, ints


def _read_planes(blob: bytes, at: int, n: int, width: int) -> IntArray:
    """Read ``n`` zigzag numbers from byte planes; bit 2 of ``width``: deflated."""
    if n < 0:
        raise CodecError("damaged blob: differences of nothing")
    dtype = _UNSIGNED[width & 3]
    size = n * dtype.itemsize
    planes = blob[at:]
    if width & 4:
        planes = _inflate(planes, size)
    if len(planes) != size:
        raise CodecError(f"damaged blob: {len(planes)} bytes of differences, not {size}")
    shuffled = np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, n)
    zigzag = np.ascontiguousarray(shuffled.T).view(dtype).reshape(n).astype(np.uint64)
    return (zigzag >> np.uint64(1)).view(np.int64) ^ -(zigzag & np.uint64(1)).view(np.int64)


def _raw(blob: bytes, at: int, n: int, dtype: str) -> _Numbers:
    if len(blob) - at != 8 * n:
        raise CodecError(f"damaged blob: {len(blob) - at} bytes for {n} values")
    return np.frombuffer(blob, dtype, n, at)


# --- Parts ------------------------------------------------------------------------------------


def _sized(number: int) -> bytes:
    """One byte with the length, then the signed number in as few bytes as hold it."""
    length = (max(number, ~number).bit_length() + 8) // 8 if number else 0
    return bytes((length,)) + number.to_bytes(length, "little", signed=True)


def _read_sized(blob: bytes, at: int) -> tuple[int, int]:
    length = blob[at] if at < len(blob) else 255
    end = at + 1 + length
    if length > 8 or end > len(blob):
        raise CodecError("damaged blob: it ends within a number")
    return int.from_bytes(blob[at + 1 : end], "little", signed=True), end


def _ints_header(exponent: int, width: int, first: int) -> bytes:
    return bytes((exponent | width << 4,)) + _sized(first)


def _read_ints_header(blob: bytes, at: int) -> tuple[int, int, int, int]:
    """Return exponent, width (bit 2: deflated), first value and where the rest begins."""
    if at >= len(blob):
        raise CodecError("damaged blob: no header")
    first, end = _read_sized(blob, at + 1)
    return blob[at] & 15, blob[at] >> 4, first, end


def _encode_presence(present: npt.NDArray[np.bool_]) -> bytes:
    edges = np.flatnonzero(present[1:] != present[:-1]) + 1
    bitmap = np.packbits(present, bitorder="little").tobytes()
    short = _deflate(bitmap)
    forms = [(0, bitmap), (1, short)]
    # A series that starts or ends within the run, the usual case, is one or two numbers.
    if len(edges) < len(short):
        ends = edges.tolist() if present[0] else [0, *edges.tolist()]
        starts = [0, *ends[:-1]]
        runs = b"".join(_varint(b - a) for a, b in zip(starts, ends, strict=True))
        forms.append((2, runs))
    form, data = min(forms, key=lambda each: len(each[1]))
    return bytes((form,)) + _varint(len(data)) + data


def _decode_presence(blob: bytes, n: int) -> tuple[npt.NDArray[np.bool_], int]:
    """Return which of ``n`` cells are present, and where the body begins."""
    if len(blob) < 2:
        raise CodecError("damaged blob: no presence map")
    length, at = _read_varint(blob, 2)
    end = at + length
    if end > len(blob):
        raise CodecError("damaged blob: it ends within the presence map")
    data = blob[at:end]
    size = -(-n // 8)
    if blob[1] == 2:
        present = np.zeros(n, np.bool_)
        cell, at, is_present = 0, 0, True
        while at < length:
            run, at = _read_varint(data, at)
            present[cell : cell + run] = is_present
            cell, is_present = cell + run, not is_present
        if cell > n:
            raise CodecError(f"damaged blob: presence of {cell} cells, not {n}")
        present[cell:] = is_present
        return present, end
    if blob[1] == 1:
        data = _inflate(data, size)
    if blob[1] > 1 or len(data) != size:
        raise CodecError("damaged blob: bad presence map")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=n, bitorder="little")
    return bits.view(np.bool_), end


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(blob: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    # Seven bytes hold 49 bits, far more cells than memory has.
    for end in range(at, min(at + 7, len(blob))):
        number |= (blob[end] & 127) << shift
        if blob[end] < 128:
            return number, end + 1
        shift += 7
    raise CodecError("damaged blob: it ends within a number")


def _deflate(data: bytes) -> bytes:
    # No zlib header and checksum: 6 bytes less, and the row has its CRC.
    return zlib.compress(data, 6, wbits=-15)


def _inflate(data: bytes, size: int) -> bytes:
    """Inflate to ``size`` bytes; one more is let through, for the caller to see it is too long."""
    inflater = zlib.decompressobj(wbits=-15)
    try:
        return inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise CodecError(f"damaged blob: {error}") from None


if HAS_PCODEC:
    # Fixing the delta order makes encoding up to three times as fast as letting pco try them all,
    # and a level above 6 costs two to three times as much for nothing.
    _DELTA, _NO_DELTA = (
        ChunkConfig(
            compression_level=6,
            delta_spec=delta_spec,
            paging_spec=PagingSpec.equal_pages_up_to(_PAGE_MAX),
        )
        for delta_spec in (DeltaSpec.try_consecutive(1), DeltaSpec.no_op())
    )
    _COMPRESSOR: Final = wrapped.FileCompressor()
    _PCO_HEADER: Final[bytes] = _COMPRESSOR.write_header()


def _to_pco(values: _Numbers, *, delta: bool = True) -> bytes:
    """
    Compress into pco's wrapped format: header (its version), chunk metadata, one page.

    The standalone format says all of it again and costs 13 bytes more, 4% of an hour of 10 s data.
    """
    chunk = _COMPRESSOR.chunk_compressor(values, _DELTA if delta else _NO_DELTA)
    return b"".join((_PCO_HEADER, chunk.write_meta(), chunk.write_page(0)))


def _from_pco(blob: bytes, at: int, n: int, out: _Numbers, dtype: str) -> None:
    if not HAS_PCODEC:
        raise CodecError("the blob was written with pcodec, which is not installed here")
    try:
        data = blob[at:]
        decompressor, used = wrapped.FileDecompressor.new(data)
        data = data[used:]
        chunk, used = decompressor.chunk_decompressor(data, dtype)
        data = data[used:]
        _, used = chunk.read_page_into(data, n, out)
    except RuntimeError as error:
        raise CodecError(f"damaged blob: {error}") from None
    if used != len(data):
        raise CodecError(f"damaged blob: {len(data) - used} bytes too many")
