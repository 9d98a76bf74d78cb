"""Run lengths: by hand, there and back, and what is refused."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distseg.data import rle
from distseg.errors import DataError

ORDERS = st.sampled_from(["row-major", "column-major"])
# Sides from 1 take in 1xN and Nx1; the fill makes most of the larger masks one colour with a few spots.
MASKS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40).flatmap(
    lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 1), fill=st.integers(0, 1))
)

#  column: 0  1  2  3
BY_HAND = np.array(
    [
        [0, 1, 1, 0],  # row-major pixels  1  2  3  4
        [0, 0, 1, 1],  #                   5  6  7  8
        [1, 0, 0, 1],  #                   9 10 11 12
    ],
    np.uint8,
)


def test_carvana_order_by_hand() -> None:
    # row-major from 1: pixels 2-3, then 7-9 (the run goes on over the line's end), then 12.
    assert rle.encode(BY_HAND) == "2 2 7 3 12 1"
    np.testing.assert_array_equal(rle.decode("2 2 7 3 12 1", 3, 4), BY_HAND)


def test_column_major_by_hand() -> None:
    # columns (0,0,1) (1,0,0) (1,1,0) (0,1,1): pixels 3-4, 7-8, 11-12 counted from 1.
    assert rle.encode(BY_HAND, order="column-major") == "3 2 7 2 11 2"
    np.testing.assert_array_equal(rle.decode("3 2 7 2 11 2", 3, 4, order="column-major"), BY_HAND)


def test_first_pixel_may_be_numbered_0() -> None:
    assert rle.encode(BY_HAND, first=0) == "1 2 6 3 11 1"
    np.testing.assert_array_equal(rle.decode("1 2 6 3 11 1", 3, 4, first=0), BY_HAND)


def test_every_nonzero_value_is_the_object() -> None:
    assert rle.encode(np.array([[0, 255, 1, 2, 0]], np.uint8)) == "2 3"
    assert rle.encode(np.array([[False, True, True]])) == "2 2"


def test_all_and_nothing() -> None:
    assert rle.encode(np.zeros((3, 5), np.uint8)) == ""
    assert rle.encode(np.ones((3, 5), np.uint8)) == "1 15"  # 3 * 5
    for nothing in ("", "  "):
        np.testing.assert_array_equal(rle.decode(nothing, 3, 5), np.zeros((3, 5), np.uint8))


def test_runs_that_touch_are_one_area() -> None:
    np.testing.assert_array_equal(rle.decode("2 1 3 2", 1, 5), np.array([[0, 1, 1, 1, 0]], np.uint8))


@given(mask=MASKS, order=ORDERS, first=st.integers(0, 1))
@example(mask=np.zeros((1, 7), np.uint8), order="column-major", first=1)
@example(mask=np.ones((7, 1), np.uint8), order="column-major", first=1)
def test_there_and_back(mask: npt.NDArray[np.uint8], order: rle.Order, first: int) -> None:
    text = rle.encode(mask, order=order, first=first)
    back = rle.decode(text, *mask.shape, order=order, first=first)
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, mask)


@given(mask=MASKS)
def test_column_major_is_row_major_of_the_transpose(mask: npt.NDArray[np.uint8]) -> None:
    assert rle.encode(mask, order="column-major") == rle.encode(np.ascontiguousarray(mask.T))


@given(data=st.data(), size=st.integers(0, 600), block=st.integers(1, 64))
def test_blocks_leave_no_trace(data: st.DataObject, size: int, block: int) -> None:
    """Edges found block by block are those of the whole mask, wherever the borders of the blocks fall."""
    flat = data.draw(hnp.arrays(np.uint8, size, elements=st.integers(0, 1), fill=st.integers(0, 1)))
    padded = np.concatenate([[0], flat, [0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "_BLOCK_PIXELS", block)
        found = rle.edges(flat.reshape(1, size))
    np.testing.assert_array_equal(found, np.flatnonzero(padded[1:] != padded[:-1]))


def test_a_view_encodes_as_its_copy() -> None:
    mask = np.arange(24).reshape(4, 6) % 5 < 2
    assert rle.encode(mask[1:, ::2]) == rle.encode(mask[1:, ::2].copy())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2 3", "3 numbers, want pairs"),
        ("1 x", "'x' is not a whole number"),
        ("1 2.5", "'2.5' is not a whole number"),
        ("5 -2", "'-2' is not a whole number"),
        ("1 1_0", "'1_0' is not a whole number"),
        ("1 \u00b2", "is not a whole number"),
        ("3 0", r"run 1 \(start 3\): length 0"),
        ("0 2", "run 1: starts at 0, want at least 1"),
        ("5 2 1 2", "run 2: starts at 1, but run 1 ends at 6"),  # unsorted; pixels 5 and 6
        ("1 3 3 2", "run 2: starts at 3, but run 1 ends at 3"),  # pixel 3 twice
        ("19 3", r"run 1: ends at pixel 21 of an image of 20 \(5x4\)"),  # 19, 20, 21
        ("99999999999999999999999 5", "more pixels than any image has"),
    ],
)
def test_refused(text: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        rle.decode(text, 4, 5)
    assert "\n" not in str(caught.value)
