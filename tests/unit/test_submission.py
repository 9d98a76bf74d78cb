"""Submissions: which rows, in which order, from which batches; and what is refused before anything is written."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distseg.errors import DataError, InputError
from distseg.predict.images import list_images, read_image
from distseg.predict.rle_csv import read_rows
from distseg.predict.submission import write_submission

WIDE, TALL = (6, 4), (4, 6)  # (width, height)


class RedIsObject:
    """A model that marks the pixels whose red is above 127, and remembers the shapes that it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.shapes.append(tuple(images.shape))
        return (images[:, 0] > 127).to(torch.uint8)


def save(path: Path, size: tuple[int, int], red_rows: int) -> Path:
    """A PNG (lossless) whose first rows are red and whose other rows are blue."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:red_rows, :, 0] = 255
    pixels[red_rows:, :, 2] = 255
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    sizes = (WIDE, WIDE, WIDE, TALL, WIDE)
    return [save(tmp_path / "in" / f"{index}.png", size, index) for index, size in enumerate(sizes)]


def test_rows_batches_and_progress(tmp_path: Path, images: Sequence[Path]) -> None:
    model, seen = RedIsObject(), []
    out = tmp_path / "new" / "out.csv"
    rows = write_submission(model, images, out, batch=2, progress=lambda done, total: seen.append((done, total)))
    assert rows == 5
    # n red rows of a WIDE image are the first 6n pixels, of the TALL one (number 3) the first 4 * 3
    assert lines(out) == ["img,rle_mask", "0.png,", "1.png,1 6", "2.png,1 12", "3.png,1 12", "4.png,1 24"]
    # at most 2 together, and only neighbours of one size: (0, 1), (2), (3), (4), each (B, 3, H, W)
    assert model.shapes == [(2, 3, 4, 6), (1, 3, 4, 6), (1, 3, 6, 4), (1, 3, 4, 6)]
    assert seen == [(2, 5), (3, 5), (4, 5), (5, 5)]


def test_rows_do_not_depend_on_batch_or_threads(tmp_path: Path, images: Sequence[Path]) -> None:
    texts = set()
    for batch, threads in ((1, 1), (3, 2), (8, 4)):
        write_submission(RedIsObject(), images, tmp_path / "out.csv", batch=batch, threads=threads)
        texts.add((tmp_path / "out.csv").read_text())
    assert len(texts) == 1


def test_order_of_pixels_is_passed_on(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", WIDE, 1)
    write_submission(RedIsObject(), [image], tmp_path / "out.csv", order="column-major")
    # one red row of four: the first pixel of each of the six columns
    assert lines(tmp_path / "out.csv")[1] == "a.png,1 1 5 1 9 1 13 1 17 1 21 1"


def test_names_with_commas_come_back(tmp_path: Path) -> None:
    image = save(tmp_path / 'a, "b".png', WIDE, 1)
    write_submission(RedIsObject(), [image], tmp_path / "out.csv")
    assert list(read_rows(tmp_path / "out.csv")) == [('a, "b".png', "1 6")]


def test_the_sample_gives_rows_and_order(tmp_path: Path, images: Sequence[Path]) -> None:
    sample = tmp_path / "sample.csv"
    names = [f"{index}.png" for index in (3, 0, 4, 2, 1)]
    sample.write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in names))
    write_submission(RedIsObject(), images, tmp_path / "out.csv", sample=sample)
    assert [line.split(",")[0] for line in lines(tmp_path / "out.csv")[1:]] == names


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((0, 1, 2, 3, 4, 5, 6), "5.png, 6.png not among the 5 images"),
        ((0, 2), "no row for 1.png, 3.png, 4.png"),
        ((0, 1, 1, 2, 3, 4), "'1.png' stands there twice"),
    ],
)
def test_a_sample_that_does_not_fit(tmp_path: Path, images: Sequence[Path], names: tuple[int, ...], says: str) -> None:
    sample, model = tmp_path / "sample.csv", RedIsObject()
    sample.write_text("img,rle_mask\n" + "".join(f"{name}.png,\n" for name in names))
    with pytest.raises(DataError, match=says):
        write_submission(model, images, tmp_path / "out.csv", sample=sample)
    assert model.shapes == []
    assert not (tmp_path / "out.csv").exists()


def test_images_that_cannot_be_rows(tmp_path: Path, images: Sequence[Path]) -> None:
    again = save(tmp_path / "other" / "1.png", WIDE, 0)
    with pytest.raises(DataError, match=r"1\.png given more than once"):
        write_submission(RedIsObject(), [*images, again], tmp_path / "out.csv")
    with pytest.raises(DataError, match="none given"):
        write_submission(RedIsObject(), [], tmp_path / "out.csv")


def test_a_damaged_image_leaves_the_older_file_alone(tmp_path: Path, images: Sequence[Path]) -> None:
    out = tmp_path / "out.csv"
    write_submission(RedIsObject(), images, out)
    before = out.read_bytes()
    images[4].write_bytes(images[4].read_bytes()[:-20])
    with pytest.raises(DataError, match=r"4\.png: cannot be decoded"):
        write_submission(RedIsObject(), images, out, batch=1)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.csv"]


def test_a_model_of_another_shape(tmp_path: Path, images: Sequence[Path]) -> None:
    with pytest.raises(InputError, match=r"returned torch.uint8 \(3, 3, 4, 6\), want torch.uint8 \(3, 4, 6\)"):
        write_submission(lambda batch: batch, images, tmp_path / "out.csv")
    with pytest.raises(InputError, match=r"returned torch.float32"):
        write_submission(lambda batch: batch[:, 0].float(), images, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    size = (400, 250)
    image_bytes = 400 * 250 * 3
    paths = [save(tmp_path / "in" / f"{index:02}.png", size, 10) for index in range(40)]
    tracemalloc.start()
    try:
        write_submission(RedIsObject(), paths, tmp_path / "out.csv", batch=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 2 waiting + 2 in the batch + their stack (2) + the one just read, and some slack; all 40 would be over 12 MB
    assert peak < 14 * image_bytes


def test_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.png", "notes.txt", "._a.png"):
        save(tmp_path / "x.png", WIDE, 0).rename(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.PNG"]
    with pytest.raises(DataError, match="no images"):
        list_images(tmp_path / "folder.png")
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "absent")


def test_images_are_rgb_upright_and_without_alpha(tmp_path: Path) -> None:
    pixels = np.full((4, 6, 4), (255, 0, 0, 10), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), np.full((4, 6, 3), (255, 0, 0), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to show
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (6, 4, 3)
    (tmp_path / "empty.jpg").touch()
    for name, says in (("empty.jpg", "0 bytes"), ("absent.jpg", "cannot be read")):
        with pytest.raises(DataError, match=says):
            read_image(tmp_path / name)
