import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from distseg.data.codec import decode_image, decode_mask, encode_mask, resize_pair
from distseg.data.manifest import MaskEncoding
from distseg.errors import BadSampleError

shapes = arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)
MASK = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)


@given(arrays.arrays(np.uint8, shapes, elements=st.integers(0, 1)), st.sampled_from(["png", "bits"]))
def test_two_classes_round_trip(mask: np.ndarray, encoding: MaskEncoding) -> None:
    again = decode_mask(encode_mask(mask, encoding, 2), encoding, 2)
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, mask)


@given(arrays.arrays(np.uint8, shapes, elements=st.integers(0, 255)))
def test_many_classes_round_trip(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_mask(encode_mask(mask, "png", 11), "png", 11), mask)


def test_png_of_two_classes_has_one_bit_a_pixel() -> None:
    with Image.open(io.BytesIO(encode_mask(MASK, "png", 2))) as image:
        assert image.mode == "1"
        np.testing.assert_array_equal(np.asarray(image), MASK == 1)  # other tools see the car too


@pytest.mark.parametrize("encoding", ["png", "bits"])
def test_a_label_that_needs_more_bits_is_refused(encoding: MaskEncoding) -> None:
    with pytest.raises(BadSampleError, match="label 255 does not fit"):
        encode_mask(np.array([[0, 255]], np.uint8), encoding, 2)


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (encode_mask(MASK, "png", 2)[:-15], "png"),
        (b"", "png"),
        (cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes(), "png"),
        (encode_mask(MASK, "bits", 2)[:-3], "bits"),
        (encode_mask(MASK, "bits", 2)[:10], "bits"),
        (encode_mask(MASK, "png", 2), "bits"),
        (b"DSB1" + struct.pack(">II", 3, 9) + encode_mask(MASK, "bits", 2)[12:], "bits"),  # fewer bits than declared
        (b"DSB1" + struct.pack(">II", 1, 1) + encode_mask(np.ones((9, 9), np.uint8), "bits", 2)[12:], "bits"),  # more
        (b"DSB1" + struct.pack(">II", 1 << 31, 1 << 31), "bits"),
    ],
)
def test_damaged_masks_are_refused(data: bytes, encoding: MaskEncoding) -> None:
    with pytest.raises(BadSampleError, match="mask"):
        decode_mask(data, encoding, 2)


def test_images_come_back_as_rgb() -> None:
    red = Image.new("RGB", (4, 2), (255, 0, 0))
    file = io.BytesIO()
    red.save(file, "PNG")
    image = decode_image(file.getvalue())
    assert image.shape == (2, 4, 3)
    assert image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("cut", [0, 1, 100, -2])
def test_truncated_images_are_refused(cut: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    with pytest.raises(BadSampleError, match="image cannot be decoded"):
        decode_image(data[:cut])


def test_images_shrink_by_area_and_masks_by_centres() -> None:
    image = np.arange(8, dtype=np.uint8).reshape(2, 4)[..., None].repeat(3, axis=2) * 10
    mask = np.arange(8, dtype=np.uint8).reshape(2, 4)
    small, labels = resize_pair(image, mask, (2, 1))
    # areas: (0 + 10 + 40 + 50) / 4 = 25 and (20 + 30 + 60 + 70) / 4 = 45
    assert small[..., 0].tolist() == [[25, 45]]
    # centres of the two new pixels are (x, y) = (1, 1) and (3, 1), the corners of old pixels (1, 1) and (3, 1)
    assert labels.tolist() == [[5, 7]]


def test_a_mask_keeps_its_place_when_it_shrinks() -> None:
    mask = np.zeros((1, 300), np.uint8)
    mask[0, 120:180] = 1  # its middle is the picture's
    image = np.zeros((1, 300, 3), np.uint8)
    _, labels = resize_pair(image, mask, (100, 1))
    assert np.flatnonzero(labels[0]).tolist() == list(range(40, 60))


def test_nothing_to_resize() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    same = resize_pair(image, MASK, (3, 2))
    assert same[0] is image
    assert same[1] is MASK
