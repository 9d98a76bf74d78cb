"""Objects as JSON of run lengths: what goes in comes out, and nothing crooked gets through."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from distseg.data.instances import (
    check_instance,
    decode_instances,
    encode_instances,
    instance_mask,
    instance_pixels,
    resize_instances,
)
from distseg.data.layouts.base import Instance
from distseg.errors import BadSampleError

masks = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1))


def instance_of(mask: np.ndarray, label: int = 0) -> Instance:
    return Instance(label, coco.encode(np.asfortranarray(mask))["counts"].decode(), False)


@given(masks)
def test_our_reading_of_run_lengths_is_cocos(mask: np.ndarray) -> None:
    instance, size = instance_of(mask), (mask.shape[1], mask.shape[0])
    check_instance(instance, size, 1)
    np.testing.assert_array_equal(instance_mask(instance, size), mask)
    assert instance_pixels(instance) == int(mask.sum())


def test_long_runs() -> None:
    mask = np.zeros((9000, 9000), np.uint8)
    mask[:, 4000:8000] = 1  # runs of 36,000,000 pixels
    instance = instance_of(mask)
    check_instance(instance, (9000, 9000), 1)
    assert instance_pixels(instance) == 36_000_000


@given(st.lists(masks, max_size=3))
def test_round_trip(found: list[np.ndarray]) -> None:
    size = (40, 40)
    instances = []
    for label, mask in enumerate(found):
        whole = np.zeros((40, 40), np.uint8)
        whole[: mask.shape[0], : mask.shape[1]] = mask
        instances.append(instance_of(whole, label))
    assert decode_instances(encode_instances(instances, size), size, 3) == tuple(instances)


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_no_text_passes_that_does_not_fill_the_image(counts: str) -> None:
    instance = Instance(0, counts, False)
    try:
        check_instance(instance, (5, 7), 1)
    except BadSampleError:
        return
    assert instance_mask(instance, (5, 7)).shape == (7, 5)


WHOLE = instance_of(np.ones((3, 2), np.uint8)).counts


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "want JSON"),
        (b"[" * 100_000, "want JSON"),
        (b"\xff\xfe", "want JSON"),
        (b"[]", "want JSON"),
        (b'{"size": [3, 2]}', "want JSON"),
        (b'{"size": [3, 2], "instances": [1]}', "want JSON"),
        (b'{"size": [2, 3], "instances": []}', r"of an image of \[height, width\] \[2, 3\], image is 2x3"),
        ({"label": -1}, r"object 0: label -1 out of range 0\.\.1"),
        ({"label": 2}, r"object 0: label 2 out of range 0\.\.1"),
        ({"label": True}, "object 0: label True out of range"),
        ({"label": "0"}, "object 0: label 0 out of range"),
        ({"crowd": 1}, "object 0: crowd is 1, want true or false"),
        ({"counts": ""}, "no compressed COCO string"),
        ({"counts": [0, 6]}, "no compressed COCO string"),
        ({"counts": "0\u00e9"}, "no compressed COCO string"),
        ({"counts": "0P"}, "no compressed COCO string"),  # P: another digit follows, but none does
        ({"counts": "0\n"}, "no compressed COCO string"),
        ({"counts": "0PPPPPP1"}, "larger than any image"),
        ({"counts": "05"}, "do not fill the image of 2x3 pixels"),  # 0 + 5 of 6 pixels
        ({"counts": "0O7"}, "do not fill"),  # 0 + (-1) + 7
    ],
)
def test_what_is_no_list_of_objects_is_refused(data: bytes | dict, reason: str) -> None:
    if isinstance(data, dict):
        row = {"label": 0, "counts": WHOLE, "crowd": False} | data
        data = json.dumps({"size": [3, 2], "instances": [row]}).encode()
    with pytest.raises(BadSampleError, match=reason):
        decode_instances(data, (2, 3), 2)


def test_objects_shrink_by_centres_and_vanish_when_nothing_is_left() -> None:
    dot, box = np.zeros((2, 8, 8), np.uint8)
    dot[0, 0] = 1  # centres of new pixels lie in old pixels 1, 3, 5, 7
    box[0:4, 0:6] = 1
    kept, vanished = resize_instances([instance_of(dot), instance_of(box, 1)], (8, 8), (4, 4))
    assert vanished == 1
    [small] = kept
    assert small.label == 1
    assert instance_mask(small, (4, 4)).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_empty_objects_vanish_at_any_size() -> None:
    empty = instance_of(np.zeros((4, 4), np.uint8))
    assert resize_instances([empty], (4, 4), (4, 4)) == ((), 1)
