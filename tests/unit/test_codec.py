import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from distseg.data.codec import check_labels, decode_image, decode_mask, encode_mask, fastest_encoding, resize_pair
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
    red = Image.new("RGB", (4, 2), (254, 0, 0))  # what 255 becomes in a JPEG
    file = io.BytesIO()
    red.save(file, "JPEG", quality=100)
    image = decode_image(file.getvalue())
    assert image.shape == (2, 4, 3)
    assert image[0, 0].tolist() == [254, 0, 0]


def test_other_formats_are_no_images_of_a_shard() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 2)).save(file, "PNG")
    with pytest.raises(BadSampleError, match="no header of a JPEG"):
        decode_image(file.getvalue())


def jpeg(width: int, height: int, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(file, "JPEG", **options)
    return file.getvalue()


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header declares another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    "data",
    [
        jpeg(30, 20),
        jpeg(30, 20, progressive=True),
        jpeg(30, 20, exif=b"Exif\0\0" + b"x" * 5000, icc_profile=b"y" * 70_000, comment=b"z"),
    ],
)
def test_the_size_of_a_jpeg_is_read_from_its_header(data: bytes) -> None:
    assert decode_image(data, (30, 20)).shape == (20, 30, 3)
    with pytest.raises(BadSampleError, match="image is 30x20, index says 20x30"):
        decode_image(data, (20, 30))


def test_bombs_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(BadSampleError, match="image declares 60000x60000 pixels, more than 200000000"):
        decode_image(claiming(jpeg(8, 8), 60_000, 60_000))
    bomb = bytearray(encode_mask(MASK, "png", 2))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(BadSampleError, match="mask declares 60000x60000 pixels"):
        decode_mask(bytes(bomb), "png", 2)
    with pytest.raises(BadSampleError, match="mask declares 60000x60000 pixels"):
        decode_mask(b"DSB1" + struct.pack(">II", 60_000, 60_000), "bits", 2)


@pytest.mark.parametrize("levels", [2, 3])
def test_pngs_that_others_wrote_are_read_too(levels: int) -> None:
    mask = np.random.default_rng(0).integers(0, levels, (30, 45), np.uint8)
    theirs = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, 1] if levels == 2 else [])[1].tobytes()
    np.testing.assert_array_equal(decode_mask(theirs, "png", levels), mask)


@pytest.mark.parametrize("one", [1, 255])
def test_masks_of_two_classes_in_eight_bits(one: int) -> None:
    data = cv2.imencode(".png", MASK * np.uint8(one))[1].tobytes()
    assert np.array_equal(decode_mask(data, "png", 2), MASK)


@pytest.mark.parametrize(("labels", "wrong"), [([0, 1, 2], 2), ([0, 1, 255], 1), ([0, 254, 255], 254), ([7, 7, 7], 7)])
def test_a_third_label_in_eight_bits_is_out_of_range(labels: list[int], wrong: int) -> None:
    data = cv2.imencode(".png", np.array([labels], np.uint8))[1].tobytes()
    with pytest.raises(BadSampleError, match=rf"^label {wrong} out of range 0\.\.1"):
        decode_mask(data, "png", 2)


@pytest.mark.parametrize("levels", [2, 3])
def test_others_read_our_pngs(levels: int) -> None:
    mask = np.random.default_rng(0).integers(0, levels, (30, 45), np.uint8)
    ours = encode_mask(mask, "png", levels)
    seen = cv2.imdecode(np.frombuffer(ours, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(seen, mask * 255 if levels == 2 else mask)
    with Image.open(io.BytesIO(ours)) as image:
        image.verify()


@pytest.mark.parametrize("levels", [2, 3])
def test_a_png_that_holds_more_or_less_than_it_declares_is_refused(levels: int) -> None:
    ours = bytearray(encode_mask(np.zeros((64, 64), np.uint8), "png", levels))
    for width, height in [(64, 63), (64, 65), (80, 64)]:
        ours[16:24] = struct.pack(">II", width, height)
        with pytest.raises(BadSampleError, match="mask is cut short or too long"):
            decode_mask(bytes(ours), "png", levels)


@pytest.mark.parametrize(("classes", "ignore", "fits"), [(11, 255, True), (11, 11, True), (11, None, False)])
def test_labels_out_of_range_but_for_the_ignore_label(classes: int, ignore: int | None, fits: bool) -> None:
    check_labels(np.array([[0, 10]], np.uint8), classes, ignore)
    labels = np.array([[0, 10, ignore or 11]], np.uint8)
    if fits:
        check_labels(labels, classes, ignore)
    labels[0, 1] = 12
    with pytest.raises(BadSampleError, match=r"label 12 out of range 0\.\.10"):
        check_labels(labels, classes, ignore)


def test_the_fastest_encoding_is_one_of_the_two() -> None:
    assert fastest_encoding([np.zeros((64, 64), np.uint8)] * 2) in ("png", "bits")


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
