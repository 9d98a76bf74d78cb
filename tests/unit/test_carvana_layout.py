from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.data.layouts import read_corpus
from distseg.data.layouts.carvana import read
from distseg.errors import DataError

WIDTH, HEIGHT = 5, 4
CAR = np.zeros((HEIGHT, WIDTH), np.uint8)
CAR[1, 2:5] = 1  # row-major, from 1: pixels 8, 9, 10
CAR[2, 0] = 1  # pixel 11: one run "8 4" in all
CAR[3, 4] = 1  # pixel 20


def write_images(source: Path, *keys: str) -> None:
    (source / "train").mkdir(parents=True)
    for key in keys:
        Image.new("RGB", (WIDTH, HEIGHT)).save(source / "train" / f"{key}.jpg")


def write_gif(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image = Image.frombytes("P", (WIDTH, HEIGHT), CAR.tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(path)


def test_gif_masks(tmp_path: Path) -> None:
    write_images(tmp_path, "abc_02", "abc_01", "d_e_01")
    for key in ("abc_01", "abc_02", "d_e_01"):
        write_gif(tmp_path / "train_masks" / f"{key}_mask.gif")
    corpus = read(tmp_path)
    assert [(sample.key, sample.group) for sample in corpus.samples] == [
        ("abc_01", "abc"),
        ("abc_02", "abc"),
        ("d_e_01", "d_e"),
    ]
    assert (corpus.task, corpus.classes, corpus.ignore_label) == ("binary", ("background", "car"), None)
    np.testing.assert_array_equal(corpus.samples[0].mask.read(), CAR)


@pytest.mark.parametrize("car_level", [1, 255])
def test_png_masks_of_either_level(tmp_path: Path, car_level: int) -> None:
    write_images(tmp_path, "a_01")
    (tmp_path / "train_masks").mkdir()
    Image.fromarray(CAR * np.uint8(car_level)).save(tmp_path / "train_masks" / "a_01_mask.png")
    mask = read(tmp_path).samples[0].mask.read()
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, CAR)


def test_a_table_that_is_gone(tmp_path: Path) -> None:
    write_images(tmp_path, "a_01")
    table = tmp_path / "train_masks.csv"
    table.write_text("img,rle_mask\na_01.jpg,8 4\n")
    corpus = read(tmp_path)
    table.unlink()
    with pytest.raises(DataError, match=r"train_masks\.csv: cannot be read \(No such file or directory\)"):
        corpus.samples[0].mask.read()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_run_lengths_where_masks_are_absent(tmp_path: Path, newline: str) -> None:
    write_images(tmp_path, "a_01", "a_02")
    rows = ["img,rle_mask", "a_01.jpg,8 4 20 1", "a_02.jpg,"]
    (tmp_path / "train_masks.csv").write_bytes((newline.join(rows) + newline).encode())
    first, second = read(tmp_path).samples
    np.testing.assert_array_equal(first.mask.read(), CAR)
    assert second.mask.read().sum() == 0  # an empty row is an empty mask
    assert second.mask.read().shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("runs", ["1 2 3", "0 2", "5 2 3 1", "1 3 2 1", "20 2", "3 0", "1 x"])
def test_wrong_runs_are_refused(tmp_path: Path, runs: str) -> None:
    write_images(tmp_path, "a_01")
    (tmp_path / "train_masks.csv").write_text(f"img,rle_mask\na_01.jpg,{runs}\n")
    with pytest.raises(DataError, match=r"train_masks\.csv: row of a_01\.jpg"):
        read(tmp_path).samples[0].mask.read()


def test_missing_masks_are_named_and_counted(tmp_path: Path) -> None:
    write_images(tmp_path, "a_01", "a_02", "a_03")
    write_gif(tmp_path / "train_masks" / "a_02_mask.gif")
    with pytest.raises(DataError, match=r"image 'a_01' has no mask in train_masks \(and 1 more\)"):
        read(tmp_path)


def test_masks_without_image_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a_01")
    for key in ("a_01", "b_01"):
        write_gif(tmp_path / "train_masks" / f"{key}_mask.gif")
    with pytest.raises(DataError, match="mask 'b_01' in train_masks has no image in train;"):
        read(tmp_path)


def test_two_masks_of_one_image_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a_01")
    write_gif(tmp_path / "train_masks" / "a_01_mask.gif")
    Image.fromarray(CAR).save(tmp_path / "train_masks" / "a_01_mask.png")
    with pytest.raises(DataError, match="a second mask"):
        read(tmp_path)


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, "a_01")
    (tmp_path / "train" / "._a_01.jpg").write_bytes(b"left by macOS")
    write_gif(tmp_path / "train_masks" / "a_01_mask.gif")
    assert [sample.key for sample in read(tmp_path).samples] == ["a_01"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="no folder 'train'"):
        read(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"no \.jpg file"):
        read(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "train" / "a_01.jpg")
    with pytest.raises(DataError, match=r"no mask in folder 'train_masks' and no train_masks\.csv"):
        read(tmp_path)
    (tmp_path / "train_masks.csv").write_text("image;mask\n")
    with pytest.raises(DataError, match="want 'img,rle_mask'"):
        read(tmp_path)


def test_names_that_do_not_tell_the_car_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "photo")
    write_gif(tmp_path / "train_masks" / "photo_mask.gif")
    with pytest.raises(DataError, match=r"photo\.jpg: name does not tell the car"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.fromarray(np.array([[0, 7, 255]], np.uint8)), r"levels \[0, 7, 255\], want 0 and one other"),
        (Image.new("RGB", (3, 1)), "mode RGB, want one channel"),
    ],
)
def test_pictures_that_are_no_masks_are_refused(tmp_path: Path, mask: Image.Image, message: str) -> None:
    write_images(tmp_path, "a_01")
    (tmp_path / "train_masks").mkdir()
    mask.save(tmp_path / "train_masks" / "a_01_mask.png")
    with pytest.raises(DataError, match=message):
        read(tmp_path).samples[0].mask.read()


def test_damaged_mask_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a_01")
    path = tmp_path / "train_masks" / "a_01_mask.gif"
    write_gif(path)
    path.write_bytes(path.read_bytes()[:12])
    with pytest.raises(DataError, match=r"a_01_mask\.gif: mask cannot be decoded"):
        read(tmp_path).samples[0].mask.read()


def test_unknown_layout_is_answered_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="layout 'pascal': unknown; want one of: carvana"):
        read_corpus("pascal", tmp_path)
