"""Run lengths: a mask as ``start length start length ...``, the text that Kaggle's segmentation tasks exchange.

In between stand edges: int64 (2R,), start and end of each of R runs in turn, counted from 0, the end not included
(``[start0, end0, start1, end1, ...]``, never falling). Row-major and 1-indexed is Carvana's convention; most of
Kaggle's other tasks are column-major.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from distseg.errors import DataError

Order = Literal["row-major", "column-major"]
Mask = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]
Edges = npt.NDArray[np.int64]

_BLOCK_PIXELS = 1 << 17
"""Temporaries of a block stay in the processor's cache; whole-mask ones can cost 1.5 ms of page faults a mask."""
_NUMBER_LIMIT = 1 << 40
"""More pixels than any image has, and far from overflow when a start and a length are added."""


def encode(mask: Mask, *, order: Order = "row-major", first: int = 1) -> str:
    """Mask (H, W), where nonzero is the object, -> ``"start length start length ..."``; ``""`` when it is empty.

    ``first`` is the number of the first pixel.
    """
    runs = edges(mask, order=order)
    runs[1::2] -= runs[::2]
    runs[::2] += first
    return " ".join(map(str, runs.tolist()))


def decode(text: str, height: int, width: int, *, order: Order = "row-major", first: int = 1) -> Labels:
    """``"start length ..."`` -> mask (H, W) uint8 of 0 and 1; DataError as ``parse`` and on a run outside the image."""
    found = parse(text, first=first)
    check_inside(found, height, width)
    lengths = np.diff(found, prepend=0, append=height * width)  # of background, object, background, ...
    flat = np.repeat(np.arange(lengths.size, dtype=np.uint8) & 1, lengths)
    if order == "row-major":
        return flat.reshape(height, width)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def edges(mask: Mask, *, order: Order = "row-major") -> Edges:
    """Mask (H, W), where nonzero is the object, -> edges of its runs."""
    flat = mask.ravel("C" if order == "row-major" else "F")
    found: list[Edges] = []
    padded = np.zeros(_BLOCK_PIXELS + 1, np.bool_)  # [0] is the pixel before the block
    for start in range(0, flat.size, _BLOCK_PIXELS):
        block = flat[start : start + _BLOCK_PIXELS]
        here, before = padded[1 : block.size + 1], padded[: block.size]
        np.not_equal(block, 0, out=here)
        found.append(np.flatnonzero(here ^ before) + start)
        padded[0] = here[-1]
    if padded[0]:
        found.append(np.array([flat.size]))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def parse(text: str, *, first: int = 1) -> Edges:
    """``"start length ..."`` -> edges of its runs.

    DataError (one line, without the name of what was read) on anything but pairs of whole numbers, on a run of length
    0 or before pixel ``first``, and on runs that overlap or are not sorted.
    """
    numbers = _numbers(text)
    if numbers.size % 2:
        raise DataError(f"run lengths: {numbers.size} numbers, want pairs of start and length")
    starts, lengths = numbers[::2] - first, numbers[1::2]
    if (at := _first_true(lengths == 0)) is not None:
        raise DataError(f"run {at + 1} (start {starts[at] + first}): length 0, want at least 1")
    if (at := _first_true(starts < 0)) is not None:
        raise DataError(f"run {at + 1}: starts at {starts[at] + first}, want at least {first} (the first pixel)")
    ends = starts + lengths
    if (at := _first_true(starts[1:] < ends[:-1])) is not None:
        raise DataError(
            f"run {at + 2}: starts at {starts[at + 1] + first}, but run {at + 1} ends at {ends[at] + first - 1};"
            " want runs sorted and without overlap"
        )
    return np.stack([starts, ends], axis=1).reshape(-1)


def check_inside(runs: Edges, height: int, width: int) -> None:
    """DataError when the last of the runs ends outside an image of this size (in pixels)."""
    if runs.size and runs[-1] > height * width:
        raise DataError(
            f"run {runs.size // 2}: ends at pixel {runs[-1]} of an image of {height * width} ({width}x{height});"
            " want runs made at the image's own size"
        )


def _numbers(text: str) -> Edges:
    if not (text.isascii() and text.replace(" ", "").isdigit()):  # the whole text at once: a third of the time of words
        words = text.split()
        if (bad := next((word for word in words if not (word.isascii() and word.isdigit())), None)) is not None:
            raise DataError(f"run lengths: '{bad[:20]}' is not a whole number of pixels")
        if not words:
            return np.zeros(0, np.int64)
    numbers = np.fromstring(text, np.int64, sep=" ")
    if numbers.max() > _NUMBER_LIMIT:
        raise DataError(f"run lengths: {numbers.max()} is more pixels than any image has")
    return numbers


def _first_true(flags: npt.NDArray[np.bool_]) -> int | None:
    return int(flags.argmax()) if flags.any() else None
