"""A QR code of a short text, as SVG: enough for an address that a phone shall open.

After ISO/IEC 18004: byte mode, error correction M, versions 1 to 6 (up to 106 bytes), the mask with the least penalty.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

# Version: error correction bytes of a block, data bytes of a block, blocks, centres of the alignment patterns.
_VERSIONS: tuple[tuple[int, int, int, tuple[int, ...]], ...] = (
    (10, 16, 1, ()),
    (16, 28, 1, (6, 18)),
    (26, 44, 1, (6, 22)),
    (18, 32, 2, (6, 26)),
    (24, 43, 2, (6, 30)),
    (16, 27, 4, (6, 34)),
)
_MASKS: tuple[Callable[[int, int], bool], ...] = (
    lambda y, x: (y + x) % 2 == 0,
    lambda y, x: y % 2 == 0,
    lambda y, x: x % 3 == 0,
    lambda y, x: (y + x) % 3 == 0,
    lambda y, x: (y // 2 + x // 3) % 2 == 0,
    lambda y, x: y * x % 2 + y * x % 3 == 0,
    lambda y, x: (y * x % 2 + y * x % 3) % 2 == 0,
    lambda y, x: ((y + x) % 2 + y * x % 3) % 2 == 0,
)
_QUIET = 4  # modules of white around it
_PATTERN = 0b10111010000, 0b00001011101  # what looks like a finder pattern in a row

Matrix = list[list[bool]]


def qr_svg(text: str) -> str:
    """Return an SVG of the code of ``text``, black on white. Raises ``ValueError`` beyond 106 bytes of UTF-8."""
    matrix = qr_matrix(text)
    side = len(matrix) + 2 * _QUIET
    dots = "".join(
        f"M{x + _QUIET} {y + _QUIET}h1v1h-1z" for y, row in enumerate(matrix) for x, dark in enumerate(row) if dark
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" shape-rendering="crispEdges">'
        f'<rect width="{side}" height="{side}" fill="#fff"/><path d="{dots}" fill="#000"/></svg>'
    )


def qr_matrix(text: str) -> Matrix:
    """Return the code's modules, row by row, true for dark."""
    data = text.encode("utf-8")
    for version, (correction, size, blocks, centres) in enumerate(_VERSIONS, start=1):
        if len(data) + 2 <= size * blocks:  # 12 bits of mode and length, 4 of the end
            bits = list(_bits(_codewords(data, size * blocks), size, blocks, correction))
            side = 17 + 4 * version
            candidates = (_drawn(side, centres, bits, mask) for mask in range(len(_MASKS)))
            return min(candidates, key=_penalty)
    raise ValueError(f"{len(data)} bytes do not fit into this QR code")


def _codewords(data: bytes, capacity: int) -> bytes:
    """Return mode, length, data and padding as bytes."""
    number = (0b0100 << 8 | len(data)) << 8 * len(data) | int.from_bytes(data, "big")
    packed = (number << 4).to_bytes(len(data) + 2, "big")
    padding = bytes((0xEC, 0x11)) * capacity
    return (packed + padding)[:capacity]


def _bits(words: bytes, size: int, blocks: int, correction: int) -> Iterator[bool]:
    """Yield the bits of all blocks, interleaved, with their error correction."""
    parts = [words[i * size : (i + 1) * size] for i in range(blocks)]
    checks = [_correction(part, correction) for part in parts]
    for group in (zip(*parts, strict=True), zip(*checks, strict=True)):
        for column in group:
            for word in column:
                yield from (bool(word >> bit & 1) for bit in range(7, -1, -1))


def _correction(part: bytes, count: int) -> bytes:
    """Return the Reed-Solomon remainder over GF(256) with the polynomial 0x11D."""
    divisor = [1]
    root = 1
    for _ in range(count):
        divisor = [a ^ _times(b, root) for a, b in zip([*divisor, 0], [0, *divisor], strict=True)]
        root = _times(root, 2)
    rest = [*part, *[0] * count]
    for i in range(len(part)):
        factor = rest[i]
        for j, coefficient in enumerate(divisor):
            rest[i + j] ^= _times(coefficient, factor)
    return bytes(rest[-count:])


def _times(a: int, b: int) -> int:
    product = 0
    for bit in range(7, -1, -1):
        product = product << 1 ^ (product >> 7) * 0x11D
        product ^= (b >> bit & 1) * a
    return product


def _drawn(side: int, centres: Sequence[int], bits: Sequence[bool], mask: int) -> Matrix:
    """Return the matrix with this mask: fixed patterns, format, data in its zigzag."""
    fixed = _fixed(side, centres)
    fixed |= _format(side, mask)
    matrix = [[fixed.get((y, x), False) for x in range(side)] for y in range(side)]
    left = iter(bits)
    for turn, right in enumerate((*range(side - 1, 6, -2), 5, 3, 1)):  # steps over the column of the timing pattern
        for step in range(side):
            y = step if turn % 2 else side - 1 - step
            for x in (right, right - 1):
                if (y, x) not in fixed:
                    matrix[y][x] = next(left, False) != _MASKS[mask](y, x)
    return matrix


def _fixed(side: int, centres: Sequence[int]) -> dict[tuple[int, int], bool]:
    """Return the modules that are the same in every code of this size; format modules are taken, and light."""
    fixed: dict[tuple[int, int], bool] = {}
    for at in range(side):
        fixed[6, at] = fixed[at, 6] = at % 2 == 0
    corners = {(3, 3), (3, side - 4), (side - 4, 3)}
    for cy, cx in corners:
        for y in range(max(0, cy - 4), min(side, cy + 5)):
            for x in range(max(0, cx - 4), min(side, cx + 5)):
                fixed[y, x] = max(abs(y - cy), abs(x - cx)) not in (2, 4)
    for cy in centres:
        for cx in centres:
            if not (cy == 6 and cx in (6, side - 7)) and not (cx == 6 and cy == side - 7):
                for y in range(cy - 2, cy + 3):
                    for x in range(cx - 2, cx + 3):
                        fixed[y, x] = max(abs(y - cy), abs(x - cx)) != 1
    return fixed


def _format(side: int, mask: int) -> dict[tuple[int, int], bool]:
    """Return both copies of the 15 format bits (error correction M, the mask), and the one module always dark."""
    data = 0b00 << 3 | mask
    rest = data
    for _ in range(10):
        rest = rest << 1 ^ (rest >> 9) * 0x537
    word = (data << 10 | rest) ^ 0x5412
    bit = [bool(word >> i & 1) for i in range(15)]
    placed = {(side - 8, 8): True}
    near = [*range(6), 7, 8]
    for i in range(8):
        placed[near[i], 8] = placed[8, side - 1 - i] = bit[i]
    for i in range(7):
        placed[8, (*range(6), 7)[i]] = bit[14 - i]
        placed[side - 7 + i, 8] = bit[8 + i]
    return placed


def _penalty(matrix: Matrix) -> int:
    """Return how hard a code is to read: long runs, blocks, false finder patterns, too dark or too light."""
    side = len(matrix)
    total = 0
    for lines in (matrix, list(map(list, zip(*matrix, strict=True)))):
        for line in lines:
            run = 0
            for x in range(side):
                run = run + 1 if x and line[x] == line[x - 1] else 1
                total += 3 if run == 5 else 1 if run > 5 else 0
            word = 0
            for x in range(side):
                word = (word << 1 | line[x]) & 0x7FF
                total += 40 if x >= 10 and word in _PATTERN else 0
    for above, below in itertools.pairwise(matrix):
        total += 3 * sum(above[x] == above[x + 1] == below[x] == below[x + 1] for x in range(side - 1))
    dark = sum(map(sum, matrix))
    return total + 10 * (abs(dark * 20 - side * side * 10) // (side * side))
