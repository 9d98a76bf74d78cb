import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.data.layouts import read_corpus
from distseg.data.layouts.base import Corpus, LayoutOptions
from distseg.data.layouts.folders import CAMVID_11, read
from distseg.errors import DataError

LABELS = np.array([[0, 1, 2], [2, 2, 11]], np.uint8)


def write_image(path: Path, size: tuple[int, int] = (3, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write_mask(path: Path, labels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


def write_pair(source: Path, stem: str, labels: Any, images: str = "images", masks: str = "masks") -> None:
    height, width = np.asarray(labels).shape[:2]
    write_image(source / images / f"{stem}.jpg", (width, height))
    write_mask(source / masks / f"{stem}.png", labels)


def write_classes(path: Path, *rows: tuple[Any, ...], header: tuple[str, ...] = ("name", "r", "g", "b")) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def mask_of(corpus: Corpus, key: str) -> np.ndarray[Any, Any]:
    sample = next(sample for sample in corpus.samples if sample.key == key)
    assert sample.mask is not None
    return sample.mask.read()


def test_segnet_folders_imply_camvid_and_the_given_split(tmp_path: Path) -> None:
    for split, stem in (("train", "0001TP_0069"), ("val", "Seq05VD_f00"), ("test", "alone")):
        write_pair(tmp_path, stem, LABELS, split, f"{split}annot")
    corpus = read_corpus("folders", tmp_path)
    assert [(sample.key, sample.group, sample.given_split) for sample in corpus.samples] == [
        ("0001TP_0069", "0001TP", "train"),
        ("Seq05VD_f00", "Seq05VD", "val"),
        ("alone", "alone", "test"),
    ]
    assert (corpus.task, corpus.classes, corpus.ignore_label) == ("multiclass", CAMVID_11, 11)
    np.testing.assert_array_equal(mask_of(corpus, "alone"), LABELS)


def test_segnet_order() -> None:
    # SegNet's own scripts: Sky, Building, Pole, Road, Pavement, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist
    assert (CAMVID_11[0], CAMVID_11[3], CAMVID_11[8], CAMVID_11[10]) == ("Sky", "Road", "Car", "Bicyclist")
    assert len(CAMVID_11) == 11


def test_kaggles_names_of_camvids_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a_1.png")
    write_mask(tmp_path / "train_labels" / "a_1_L.png", LABELS)
    np.testing.assert_array_equal(mask_of(read(tmp_path), "a_1"), LABELS)


@pytest.mark.parametrize("mask", ["a_1.png", "a_1_L.png", "a_1_mask.gif"])
def test_names_of_masks(tmp_path: Path, mask: str) -> None:
    write_image(tmp_path / "images" / "a_1.jpg")
    write_mask(tmp_path / "masks" / mask, [[0, 1, 2], [0, 1, 2]])
    assert [sample.key for sample in read(tmp_path).samples] == ["a_1"]


def test_an_image_called_mask_keeps_its_own(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", [[0, 1]])
    write_pair(tmp_path, "a_mask", [[1, 1]])
    corpus = read(tmp_path)
    np.testing.assert_array_equal(mask_of(corpus, "a"), [[0, 1]])
    np.testing.assert_array_equal(mask_of(corpus, "a_mask"), [[1, 1]])


def test_classes_are_counted_where_none_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", [[0, 0]])
    write_pair(tmp_path, "b", [[0, 3]])
    corpus = read(tmp_path)
    assert corpus.classes == ("class_0", "class_1", "class_2", "class_3")
    assert (corpus.task, corpus.ignore_label) == ("multiclass", None)


def test_two_classes_are_binary(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", [[0, 1]])
    assert read(tmp_path).task == "binary"


def test_an_ignored_label_is_not_counted(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", [[0, 1, 2, 255]])
    corpus = read(tmp_path, LayoutOptions(ignore_label=255))
    assert (corpus.classes, corpus.ignore_label) == (("class_0", "class_1", "class_2"), 255)
    np.testing.assert_array_equal(mask_of(corpus, "a"), [[0, 1, 2, 255]])


def test_an_ignored_label_among_the_classes_is_taken_out(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", [[0, 1, 2]])
    corpus = read(tmp_path, LayoutOptions(ignore_label=0))
    assert (corpus.classes, corpus.ignore_label) == (("class_1", "class_2"), 255)
    np.testing.assert_array_equal(mask_of(corpus, "a"), [[255, 0, 1]])


def test_indices_of_a_palette_are_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.jpg")
    mask = Image.frombytes("P", (3, 2), bytes([0, 1, 2, 2, 1, 0]))
    mask.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "a.png")
    np.testing.assert_array_equal(mask_of(read(tmp_path), "a"), [[0, 1, 2], [2, 1, 0]])


def test_colours_by_class_file_with_void_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path / "class_dict.csv", ("Car", 64, 0, 128), ("Void", 0, 0, 0), ("Wall", 64, 192, 0))
    write_pair(tmp_path, "a_1", [[[64, 192, 0], [0, 0, 0], [64, 0, 128]]])
    corpus = read(tmp_path)
    # rows 0, 1, 2 -> Car 0, Void ignored, Wall 1
    assert (corpus.classes, corpus.ignore_label, corpus.task) == (("Car", "Wall"), 255, "binary")
    np.testing.assert_array_equal(mask_of(corpus, "a_1"), [[1, 255, 0]])


def test_camvids_32_rows_are_31_classes(tmp_path: Path) -> None:
    rows = [(f"c{number}", number, 0, 0) for number in range(1, 31)]
    write_classes(tmp_path / "class_dict.csv", *rows, ("VOID", 0, 0, 0), ("Wall", 64, 192, 0))
    write_pair(tmp_path, "a_1", [[[1, 0, 0], [0, 0, 0], [64, 192, 0]]])
    corpus = read(tmp_path)
    assert len(corpus.classes) == 31
    np.testing.assert_array_equal(mask_of(corpus, "a_1"), [[0, 255, 30]])


def test_grey_masks_hold_row_numbers_of_the_class_file(tmp_path: Path) -> None:
    write_classes(tmp_path / "class_dict.csv", ("Car", 64, 0, 128), ("Void", 0, 0, 0), ("Wall", 64, 192, 0))
    write_pair(tmp_path, "a", [[0, 1, 2]])
    np.testing.assert_array_equal(mask_of(read(tmp_path), "a"), [[0, 255, 1]])


def test_a_palette_mask_is_read_by_colour_where_colours_are_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "class_dict.csv", ("sky", 0, 0, 200), ("road", 90, 90, 90))
    write_image(tmp_path / "images" / "a.jpg", (2, 1))
    mask = Image.frombytes("P", (2, 1), bytes([0, 1]))
    mask.putpalette([90, 90, 90, 0, 0, 200])  # the other way round
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "a.png")
    np.testing.assert_array_equal(mask_of(read(tmp_path), "a"), [[1, 0]])


@pytest.mark.parametrize(
    "text", ["sky\nroad\ncar\n", "\ufeffname\nsky\nroad\ncar\n", "name,note\nsky,a\nroad,b\ncar,c\n"]
)
def test_names_alone(tmp_path: Path, text: str) -> None:
    write_pair(tmp_path, "a", [[0, 1]])
    names = tmp_path / "names.txt"
    names.write_text(text, encoding="utf-8")
    assert read(tmp_path, LayoutOptions(classes=names)).classes == ("sky", "road", "car")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,r,g,b\nsky,0,0,300\n", "line 2: no name, or no r, g, b of 0 to 255"),
        ("name,r,g,b\nsky,0,0\n", "line 2: no name, or no r, g, b"),
        ("sky\nsky\n", "sky stands for two classes"),
        ("name,r,g,b\nsky,0,0,1\nroad,0,0,1\n", r"\(0, 0, 1\) stands for two classes"),
        ("", "0 classes, want 1 to 255"),
        ("sky\nvoid\n", "1 class.es. beside what is ignored, want 2 at least"),
        (" ,r\n", "0 classes|want 2 at least"),
    ],
)
def test_class_files_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    write_pair(tmp_path, "a", [[0, 1]])
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"names\.csv: .*({message})"):
        read(tmp_path, LayoutOptions(classes=path))


def test_group_regex(tmp_path: Path) -> None:
    write_pair(tmp_path, "cam1-day2-7", [[0, 1]])
    assert read(tmp_path, LayoutOptions(group_regex=r"-(day\d)")).samples[0].group == "day2"
    assert read(tmp_path, LayoutOptions(group_regex=r"cam\d-day\d")).samples[0].group == "cam1-day2"
    with pytest.raises(DataError, match=r"cam1-day2-7\.jpg: group regex 'night' finds nothing in the name"):
        read(tmp_path, LayoutOptions(group_regex="night"))
    with pytest.raises(DataError, match=r"group regex '\(': not a regular expression"):
        read(tmp_path, LayoutOptions(group_regex="("))


def test_dots_and_blanks_become_dashes(tmp_path: Path) -> None:
    write_pair(tmp_path, "frame 1.5_7", [[0, 1]])
    assert [(sample.key, sample.group) for sample in read(tmp_path).samples] == [("frame-1-5_7", "frame 1.5")]


def test_names_that_become_one_are_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "a.b", [[0, 1]])
    write_pair(tmp_path, "a-b", [[0, 1]])
    with pytest.raises(DataError, match=r"its key 'a-b' is that of .*a-b\.jpg too"):
        read(tmp_path)


def test_one_name_in_two_splits_is_refused(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", LABELS, "train", "trainannot")
    write_pair(tmp_path, "a", LABELS, "val", "valannot")
    with pytest.raises(DataError, match=r"val/a\.jpg: its key 'a' is that of .*train/a\.jpg too"):
        read(tmp_path)


def test_orphans_are_counted(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", [[0, 1]])
    write_image(tmp_path / "images" / "b.jpg")
    write_image(tmp_path / "images" / "c.jpg")
    with pytest.raises(DataError, match=r"images/b\.jpg: image has no mask in masks \(and 1 more\); complete"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([[0, 255]], LayoutOptions(), "mask of 0 and 255, want class numbers"),
        ([[[0, 0, 0], [1, 1, 1]]], LayoutOptions(), "mask of mode RGB, want class numbers in one channel"),
        ([[0, 1, 2, 255]], LayoutOptions(), "label 255 is no class, want 0..2"),
    ],
)
def test_masks_that_are_no_label_maps(tmp_path: Path, labels: Any, options: LayoutOptions, message: str) -> None:
    write_pair(tmp_path, "a", labels)
    with pytest.raises(DataError, match=message):
        mask_of(read(tmp_path, options), "a")


def test_label_beyond_the_segnet_classes(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", [[0, 12]], "train", "trainannot")
    with pytest.raises(DataError, match=r"a\.png: label 12 is no class, want 0\.\.10 or the ignore label 11"):
        mask_of(read(tmp_path), "a")


def test_label_255_is_not_void_by_itself(tmp_path: Path) -> None:
    write_classes(tmp_path / "class_dict.csv", ("Car", 64, 0, 128), ("Void", 0, 0, 0), ("Wall", 64, 192, 0))
    write_pair(tmp_path, "a", [[0, 1, 255]])
    with pytest.raises(DataError, match="label 255 is no class"):
        mask_of(read(tmp_path), "a")


def test_unlisted_colour_is_named(tmp_path: Path) -> None:
    write_classes(tmp_path / "class_dict.csv", ("a", 0, 0, 0), ("b", 255, 255, 255))
    write_pair(tmp_path, "x", [[[0, 0, 0], [255, 255, 255], [1, 2, 3]]])
    with pytest.raises(DataError, match=r"x\.png: 1 pixels have a colour that is no class, such as 1,2,3"):
        mask_of(read(tmp_path), "x")


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="none of the folders it should have"):
        read(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="images: no image"):
        read(tmp_path)
    with pytest.raises(DataError, match="ignore label 256: want a label of a mask, 0 to 255"):
        read(tmp_path, LayoutOptions(ignore_label=256))
    write_image(tmp_path / "test" / "a.jpg")
    with pytest.raises(DataError, match="folder 'test' has no 'testannot' beside it"):
        read(tmp_path)


def test_a_picture_in_a_language_is_not_run(tmp_path: Path) -> None:
    """PIL would hand a PostScript file to Ghostscript, whatever its name."""
    write_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 3 2\n%%EndComments\n")
    with pytest.raises(DataError, match=r"a\.png: mask cannot be decoded"):
        read(tmp_path)
