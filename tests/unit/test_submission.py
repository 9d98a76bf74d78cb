"""Submissions: which rows, in which order, from which batches; and what is refused before anything is written."""

import errno
import json
import os
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distseg.errors import DataError, InputError
from distseg.predict.decode import Decoders, Unreadable
from distseg.predict.images import list_images, read_image
from distseg.predict.inputs import Job
from distseg.predict.pipeline import CHUNK, Pipeline
from distseg.predict.row_format import RowFormat, read_rows
from distseg.predict.score import score
from distseg.predict.segmenter import Segmenter
from distseg.predict.submission import EncodeRows, write_submission
from distseg.predict.unfinished import Runs

WIDE, TALL = (6, 4), (4, 6)  # (width, height)


@dataclass
class RedIsObject:
    """In the place of a Segmenter: marks the pixels whose red is above 127, and remembers the shapes it was given."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    channels: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def labels(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.shapes.append(tuple(images.shape))
        return (images[:, 0] > 127).to(torch.uint8)


class Stop(Exception):
    """Where a test interrupts."""


def encoder(model: Any, format: RowFormat | None = None) -> Pipeline[Runs]:
    return Pipeline(model, EncodeRows(format or RowFormat()), Decoders(0))


def write(images: Sequence[Path], out: Path, model: Any = None, **options: Any) -> int:
    return write_submission(encoder(model or RedIsObject(), options.get("format")), images, out, **options)


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


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """Three chunks, the last of five images."""
    return [save(tmp_path / "in" / f"{index:02}.png", WIDE, index % 5) for index in range(2 * CHUNK + 5)]


def test_rows_batches_and_progress(tmp_path: Path, images: Sequence[Path]) -> None:
    model, seen = RedIsObject(), []
    out = tmp_path / "new" / "out.csv"
    rows = write(images, out, model, progress=lambda done, total: seen.append((done, total)))
    assert rows == 5
    # n red rows of a WIDE image are the first 6n pixels, of the TALL one (number 3) the first 4 * 3
    assert lines(out) == ["img,rle_mask", "0.png,", "1.png,1 6", "2.png,1 12", "3.png,1 12", "4.png,1 24"]
    # those of one size together, (B, 3, H, W), wherever they stand in the chunk
    assert model.shapes == [(4, 3, 4, 6), (1, 3, 6, 4)]
    assert seen == [(5, 5)]


def test_batches_keep_to_their_chunk_and_size(tmp_path: Path, many: Sequence[Path]) -> None:
    model = RedIsObject()
    write(many, tmp_path / "out.csv", model)
    assert [shape[0] for shape in model.shapes] == [16, 16, 5]
    large = [save(tmp_path / "large" / f"{index}.png", (1918, 1280), index) for index in range(4)]
    model = RedIsObject()
    write(large, tmp_path / "out.csv", model)
    assert [shape[0] for shape in model.shapes] == [3, 1]  # 2^23 pixels hold three of them


def test_order_of_pixels_is_passed_on(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", WIDE, 1)
    write([image], tmp_path / "out.csv", format=RowFormat(order="column-major"))
    # one red row of four: the first pixel of each of the six columns
    assert lines(tmp_path / "out.csv")[1] == "a.png,1 1 5 1 9 1 13 1 17 1 21 1"


def test_names_with_commas_come_back(tmp_path: Path) -> None:
    image = save(tmp_path / 'a, "b".png', WIDE, 1)
    write([image], tmp_path / "out.csv")
    assert list(read_rows(tmp_path / "out.csv")) == [('a, "b".png', "1 6")]


def test_the_sample_gives_rows_and_order(tmp_path: Path, images: Sequence[Path]) -> None:
    sample = tmp_path / "sample.csv"
    names = [f"{index}.png" for index in (3, 0, 4, 2, 1)]
    sample.write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in names))
    write(images, tmp_path / "out.csv", sample=sample)
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
        write(images, tmp_path / "out.csv", model, sample=sample)
    assert model.shapes == []
    assert not (tmp_path / "out.csv").exists()


def test_images_that_cannot_be_rows(tmp_path: Path, images: Sequence[Path]) -> None:
    again = save(tmp_path / "other" / "1.png", WIDE, 0)
    with pytest.raises(DataError, match=r"1\.png given more than once"):
        write([*images, again], tmp_path / "out.csv")
    with pytest.raises(DataError, match="none given"):
        write([], tmp_path / "out.csv")


def test_a_folder_is_no_place_for_the_file(tmp_path: Path, images: Sequence[Path]) -> None:
    model, folder = RedIsObject(), tmp_path / "out"
    folder.mkdir()
    with pytest.raises(InputError, match=r"--out .*out: is a folder; give .* a file, such as .*out/submission\.csv"):
        write(images, folder, model)
    assert model.shapes == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_an_unreadable_image_ends_no_run_and_leaves_the_older_file_alone(tmp_path: Path, many: Sequence[Path]) -> None:
    out = tmp_path / "out.csv"
    write(many, out)
    before, whole = out.read_bytes(), many[4].read_bytes()
    many[4].write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"not written, 1 of 37 images.*04\.png: cannot be decoded.*--unreadable empty"):
        write(many, out)
    assert out.read_bytes() == before
    many[4].write_bytes(whole)
    model = RedIsObject()
    write(many, out, model)
    assert sum(shape[0] for shape in model.shapes) == CHUNK  # the others were kept
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.csv"]


def test_unreadable_images_as_empty_masks_if_asked(tmp_path: Path, images: Sequence[Path]) -> None:
    images[2].write_bytes(b"no picture")
    told: list[str] = []
    assert write(images, tmp_path / "out.csv", empty_if_unreadable=True, tell=told.append) == 5
    assert lines(tmp_path / "out.csv")[3] == "2.png,"
    assert len(told) == 1
    assert told[0].startswith(f"{images[2]}: cannot be decoded")
    assert told[0].endswith("its mask is empty")


def test_a_model_of_another_shape() -> None:
    class Loaded:
        @staticmethod
        def module(images: torch.Tensor) -> torch.Tensor:
            return images if images.shape[0] == 3 else images[:, 0].float()

    segmenter = Segmenter((Loaded(),), tta=False, tile=None, device=torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"returned torch.uint8 \(3, 3, 4, 6\), want torch.uint8 \(3, 4, 6\)"):
        segmenter.labels(torch.zeros(3, 3, 4, 6, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"returned torch.float32"):
        segmenter.labels(torch.zeros(1, 3, 4, 6, dtype=torch.uint8))


def test_what_a_model_raises_is_raised(tmp_path: Path, images: Sequence[Path]) -> None:
    class Fails(RedIsObject):
        def labels(self, images: torch.Tensor) -> torch.Tensor:
            raise InputError("model: cannot")

    with pytest.raises(InputError, match="model: cannot"):
        write(images, tmp_path / "out.csv", Fails())
    assert not (tmp_path / "out.csv").exists()


# Interrupted and run again


def interrupted(images: Sequence[Path], out: Path, after: int, **options: Any) -> None:
    """A run that ends, without a word, when it has made the rows of so many images."""
    whole = encoder(RedIsObject())

    def encode(jobs: Sequence[Job]) -> Iterator[Runs | Unreadable]:
        for number, result in enumerate(whole(jobs)):
            if number == after:
                raise Stop
            yield result

    with pytest.raises(Stop):
        write_submission(encode, images, out, **options)


def test_it_goes_on_where_it_was(tmp_path: Path, many: Sequence[Path]) -> None:
    out, told, model, seen = tmp_path / "out.csv", [], RedIsObject(), []
    write(many, tmp_path / "whole.csv")
    interrupted(many, out, after=CHUNK + 3)
    assert not out.exists()
    write(many, out, model, tell=told.append, progress=lambda done, total: seen.append((done, total)))
    assert told == [f"{out}: goes on, 16 of 37 are there"]
    assert [shape[0] for shape in model.shapes] == [16, 5]  # batches are those of a run left alone
    assert seen == [(16, 21), (21, 21)]
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.csv", "whole.csv"]


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_is_dropped(cut: int, tmp_path: Path, many: Sequence[Path]) -> None:
    out, model = tmp_path / "out.csv", RedIsObject()
    write(many, tmp_path / "whole.csv")
    interrupted(many, out, after=2 * CHUNK + 1)
    aside = tmp_path / ".out.csv.unfinished"
    aside.write_bytes(aside.read_bytes()[:-cut])
    write(many, out, model)
    assert [shape[0] for shape in model.shapes] == [16, 5]
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_torn_header_is_no_unfinished_file(tmp_path: Path, many: Sequence[Path]) -> None:
    told: list[str] = []
    (tmp_path / ".out.csv.unfinished").write_bytes(b'{"distseg": "unf')
    assert write(many, tmp_path / "out.csv", tell=told.append) == 37
    assert told == []


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"models": ["another"]}},
        {"format": RowFormat(order="column-major")},
    ],
)
def test_another_model_or_other_options_begin_anew(
    change: dict[str, Any], tmp_path: Path, many: Sequence[Path]
) -> None:
    def identity(options: dict[str, Any]) -> dict[str, Any]:
        rows = options.get("format", RowFormat()).model_dump(mode="json")
        return {**options, "identity": {"models": ["one"], "format": rows, **options.get("identity", {})}}

    out, told, model = tmp_path / "out.csv", [], RedIsObject()
    write(many, tmp_path / "whole.csv", **identity(change))
    interrupted(many, out, after=CHUNK + 3, **identity({}))
    write(many, out, model, tell=told.append, **identity(change))
    assert told == [f"{out}: an unfinished one of other models, options or images was there; begun anew"]
    assert len(model.shapes) == 3
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_an_image_that_was_replaced_is_done_again(tmp_path: Path, many: Sequence[Path]) -> None:
    out = tmp_path / "out.csv"
    interrupted(many, out, after=2 * CHUNK + 1)
    save(many[3], TALL, 6)
    write(many, out)
    assert lines(out)[1 + 3] == "03.png,1 24"


def test_empty_masks_of_an_earlier_process_are_told_too(tmp_path: Path, many: Sequence[Path]) -> None:
    out, told, model = tmp_path / "out.csv", [], RedIsObject()
    for number in (4, CHUNK + 2):
        many[number].write_bytes(b"no picture")
    interrupted(many, out, after=CHUNK + 3, empty_if_unreadable=True)
    write(many, out, model, empty_if_unreadable=True, tell=told.append)
    assert told[0] == f"{out}: goes on, 16 of 37 are there"
    assert [line.split(":")[0] for line in told[1:]] == [str(many[4]), str(many[CHUNK + 2])]
    assert all(line.endswith("its mask is empty") for line in told[1:])
    assert [shape[0] for shape in model.shapes] == [15, 5]
    assert lines(out)[1 + 4] == "04.png,"


def test_the_advice_to_allow_empty_masks_keeps_the_others(tmp_path: Path, many: Sequence[Path]) -> None:
    out, told, model = tmp_path / "out.csv", [], RedIsObject()
    many[4].write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"the others are kept\), or give --unreadable empty"):
        write(many, out)
    write(many, out, model, empty_if_unreadable=True, tell=told.append)
    assert told[0] == f"{out}: goes on, 21 of 37 are there"
    assert told[1].startswith(f"{many[4]}: ")
    assert [shape[0] for shape in model.shapes] == [15]


def test_empty_masks_are_no_longer_there_when_not_allowed(tmp_path: Path, many: Sequence[Path]) -> None:
    out, model = tmp_path / "out.csv", RedIsObject()
    many[4].write_bytes(b"no picture")
    interrupted(many, out, after=2 * CHUNK + 1, empty_if_unreadable=True)
    with pytest.raises(DataError, match=r"not written, 1 of 37 images cannot be read: .*04\.png"):
        write(many, out, model)
    assert [shape[0] for shape in model.shapes] == [15, 5]  # the second chunk was kept
    assert not out.exists()


def test_two_at_once_are_refused(tmp_path: Path, many: Sequence[Path]) -> None:
    whole = encoder(RedIsObject())

    def encode(jobs: Sequence[Job]) -> Iterator[Runs | Unreadable]:
        with pytest.raises(InputError, match=r"out\.csv: another process is writing it; wait for its end"):
            write(many, tmp_path / "out.csv")
        return whole(jobs)

    assert write_submission(encode, many, tmp_path / "out.csv") == 37


def test_a_file_system_without_locks_is_written_to_all_the_same(
    tmp_path: Path, many: Sequence[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    out, told = tmp_path / "out.csv", []
    monkeypatch.setattr("fcntl.flock", flock)
    interrupted(many, out, after=CHUNK + 3)
    assert write(many, out, tell=told.append) == 37
    assert told == [f"{out}: goes on, 16 of 37 are there"]


# Other competitions


CLASSES = ("sky", "road", "car")


def test_rows_of_several_classes(tmp_path: Path) -> None:
    class Thirds(RedIsObject):
        """The left third is class 0, the middle 1, the right 2."""

        def labels(self, images: torch.Tensor) -> torch.Tensor:
            row = torch.arange(images.shape[-1]) // 2
            return row.to(torch.uint8).expand(images.shape[0], *images.shape[-2:]).contiguous()

    image = save(tmp_path / "in" / "a.jpg", WIDE, 0)
    rows = RowFormat(
        columns=("ImageId_ClassId", "EncodedPixels"),
        order="column-major",
        first=0,
        row_id="{stem}_{class}",
        labels=(2, 1),
        classes=CLASSES,
    )
    write([image], tmp_path / "out.csv", Thirds(), format=rows)
    # columns 4 and 5 of four rows are pixels 16..23, columns 2 and 3 are 8..15, counted from 0
    assert lines(tmp_path / "out.csv") == ["ImageId_ClassId,EncodedPixels", "a_car,16 8", "a_road,8 8"]
    Image.fromarray(np.repeat([[0, 0, 1, 1, 2, 1]], 4, axis=0).astype(np.uint8)).save(tmp_path / "in" / "a.png")
    found = score(tmp_path / "out.csv", tmp_path / "in", rows)
    # car: 4 pixels of truth, 8 of prediction, 4 in common: 8 / 12; road: 12 and 8, 8 in common: 16 / 20
    assert found.dice_mean_per_image == pytest.approx((8 / 12 + 16 / 20) / 2)
    assert (found.images, found.missing, found.extra) == (2, (), ())


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_sample_of_several_rows_an_image(interleaved: bool, tmp_path: Path, images: Sequence[Path]) -> None:
    rows = RowFormat(row_id="{image}_{label}", labels=(0, 1), classes=("background", "car"))
    ids = [f"{number}.png_{label}" for label in (0, 1) for number in (3, 0, 4, 2, 1)]
    if not interleaved:
        ids.sort()
    sample = tmp_path / "sample.csv"
    sample.write_text("img,rle_mask\n" + "".join(f"{row_id},\n" for row_id in ids))
    write(images, tmp_path / "out.csv", format=rows, sample=sample)
    found = dict(read_rows(tmp_path / "out.csv"))
    assert list(found) == ids
    assert (found["1.png_0"], found["1.png_1"], found["4.png_0"]) == ("7 18", "1 6", "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"row_id": "{picture}"}, r"unknown \['picture'\], want image, stem, label, class"),
        ({"row_id": "{image"}, r"--row-id {image: "),
        ({"row_id": "{label}"}, r"want {image} or {stem} in it"),
        ({"labels": (0, 1)}, r"2 rows an image, want {label} or {class} in it"),
        ({"labels": (2,)}, r"--labels 2: the classes are 0..1"),
        ({"labels": (1, 1), "row_id": "{image}_{label}"}, r"each once"),
    ],
)
def test_formats_that_cannot_be(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        RowFormat(**changes).checked()


def test_images_that_share_a_row(tmp_path: Path) -> None:
    pair = [save(tmp_path / name, WIDE, 0) for name in ("a.png", "a.bmp")]
    with pytest.raises(DataError, match=r"a\.png and a\.bmp share the row 'a'"):
        write(pair, tmp_path / "out.csv", format=RowFormat(row_id="{stem}"))


def test_the_unfinished_file_is_json_lines(tmp_path: Path, many: Sequence[Path]) -> None:
    interrupted(many, tmp_path / "out.csv", after=CHUNK + 3, identity={"models": ["m"]})
    header, chunk = map(json.loads, (tmp_path / ".out.csv.unfinished").read_text().splitlines())
    assert header["models"] == ["m"]
    assert (chunk[0], chunk[2][1]) == (0, ["1 6"])
    assert chunk[1][1] == [many[1].stat().st_size, many[1].stat().st_mtime_ns]


# Memory, images


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    size = (400, 250)
    image_bytes = 400 * 250 * 3
    paths = [save(tmp_path / "in" / f"{index:02}.png", size, 10) for index in range(5 * CHUNK)]
    tracemalloc.start()
    try:
        write(paths, tmp_path / "out.csv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # a batch of 16 in the model's hands, one being filled, one waiting, masks of two chunks; all 80 would be 24 MB
    assert peak < 62 * image_bytes


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
