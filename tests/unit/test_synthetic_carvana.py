"""The rendered Carvana set: Kaggle's layout to the letter, the same bytes every time, and no cheap answer."""

import csv
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from distseg.data.synthetic.carvana import write_carvana
from distseg.errors import InputError

GROUPS, VIEWS, SIZE = 3, 4, (160, 128)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "carvana"
    write_carvana(out, groups=GROUPS, views=VIEWS, size=SIZE, seed=3)
    return out


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def masks_of(root: Path) -> dict[str, np.ndarray]:
    """Image name without its suffix -> mask as the GIF decodes."""
    masks = {}
    for path in sorted((root / "train_masks").glob("*.gif")):
        with Image.open(path) as image:
            masks[path.name.removesuffix("_mask.gif")] = np.array(image)
    return masks


def rows_of(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10**7)
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def decoded(runs: str, shape: tuple[int, int]) -> np.ndarray:
    flat = np.zeros(shape[0] * shape[1], np.uint8)
    numbers = [int(word) for word in runs.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        flat[start - 1 : start - 1 + length] = 1
    return flat.reshape(shape)


def test_same_arguments_give_the_same_bytes(rendered, tmp_path):
    write_carvana(tmp_path / "again", groups=GROUPS, views=VIEWS, size=SIZE, seed=3)
    assert digests(tmp_path / "again") == digests(rendered)


def test_another_seed_gives_other_cars(rendered, tmp_path):
    write_carvana(tmp_path / "other", groups=1, views=1, size=SIZE, seed=4)
    assert not digests(tmp_path / "other").keys() & digests(rendered).keys() - {"metadata.csv", "train_masks.csv"}


def test_a_car_does_not_depend_on_how_many_are_asked_for(rendered, tmp_path):
    write_carvana(tmp_path / "fewer", groups=2, views=2, size=SIZE, seed=3)
    fewer, more = digests(tmp_path / "fewer"), digests(rendered)
    pictures = [name for name in fewer if not name.endswith(".csv")]
    assert len(pictures) == 2 * 2 * 2
    assert all(fewer[name] == more[name] for name in pictures)
    few_cars, more_cars = (rows_of(root / "metadata.csv") for root in (tmp_path / "fewer", rendered))
    assert few_cars == more_cars[:2]


def test_layout_is_kaggles(rendered):
    assert {path.name for path in rendered.iterdir()} == {"train", "train_masks", "train_masks.csv", "metadata.csv"}
    cars = rows_of(rendered / "metadata.csv")
    assert list(cars[0]) == ["id", "year", "make", "model", "trim1", "trim2"]
    ids = [car["id"] for car in cars]
    assert len(set(ids)) == GROUPS
    assert all(len(car_id) == 12 and int(car_id, 16) >= 0 for car_id in ids)
    names = sorted(f"{car_id}_{view:02d}" for car_id in ids for view in range(1, VIEWS + 1))
    assert sorted(path.name for path in (rendered / "train").iterdir()) == [f"{name}.jpg" for name in names]
    assert sorted(masks_of(rendered)) == names


def test_picture_and_mask_have_the_size_asked_for(rendered):
    for name, mask in masks_of(rendered).items():
        assert mask.shape == SIZE[::-1]
        assert cv2.imread(str(rendered / "train" / f"{name}.jpg")).shape == (*SIZE[::-1], 3)


def test_masks_are_palette_gifs_of_zeros_and_ones(rendered):
    for path in (rendered / "train_masks").glob("*.gif"):
        with Image.open(path) as image:
            assert image.mode == "P"
            assert np.unique(np.asarray(image)).tolist() == [0, 1]
            assert image.getpalette()[:6] == [0, 0, 0, 255, 255, 255]


def test_run_lengths_equal_the_gifs(rendered):
    masks, rows = masks_of(rendered), rows_of(rendered / "train_masks.csv")
    assert sorted(row["img"] for row in rows) == [f"{name}.jpg" for name in sorted(masks)]
    for row in rows:
        mask = masks[row["img"].removesuffix(".jpg")]
        np.testing.assert_array_equal(decoded(row["rle_mask"], mask.shape), mask)


def test_the_mask_sits_on_the_car(rendered):
    """The pictures change more along their masks' outlines than along the same lines moved by 3 pixels."""
    on_outline, aside = [], []
    for name, mask in masks_of(rendered).items():
        picture = cv2.imread(str(rendered / "train" / f"{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        change = np.hypot(cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1))
        outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        on_outline.append(change[outline].mean())
        aside.append([change[np.roll(outline, shift, (0, 1))].mean() for shift in ((0, 3), (0, -3), (3, 0), (-3, 0))])
    assert np.mean(on_outline) > 1.1 * np.mean(aside, axis=0).max()


def test_no_constant_mask_is_a_good_answer(rendered):
    masks = np.stack(list(masks_of(rendered).values())) > 0
    share = masks.mean(axis=(1, 2))
    assert share.min() > 0.04
    assert np.mean(2 * share / (1 + share)) < 0.6  # everything is car: intersection p, sizes p and 1
    mean = masks.mean(axis=0)
    for threshold in np.arange(0.05, 1.0, 0.05):  # the silhouette that all pictures share, at its best
        silhouette = mean > threshold
        dice = 2 * (masks & silhouette).sum(axis=(1, 2)) / (masks.sum(axis=(1, 2)) + silhouette.sum())
        assert dice.mean() < 0.6, threshold


@pytest.mark.parametrize(
    "wrong",
    [{"groups": 0}, {"views": 0}, {"views": 17}, {"size": (63, 128)}, {"size": (128, 63)}, {"seed": -1}],
    ids=str,
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, wrong):
    arguments = {"groups": 1, "views": 1, "size": (64, 64), "seed": 0} | wrong
    with pytest.raises(InputError, match=f"{next(iter(wrong))}.*wanted"):
        write_carvana(tmp_path / "deep" / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists already"):
        write_carvana(out, groups=1, views=1, size=(64, 64))
    assert digests(tmp_path).keys() == {"mine/notes.txt"}
    assert (out / "notes.txt").read_text() == "keep me"


def test_an_empty_folder_may_be_filled(tmp_path):
    write_carvana(tmp_path, groups=1, views=1, size=(64, 64))
    assert len(list((tmp_path / "train").iterdir())) == 1
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.tmp-*"))


def test_nothing_is_left_when_rendering_fails(tmp_path, monkeypatch):
    def full_disk(*_: object) -> bytes:
        raise OSError("no space left on device")

    monkeypatch.setattr("distseg.data.synthetic.carvana._gif", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_carvana(tmp_path / "out", groups=1, views=1, size=(64, 64))
    assert not list(tmp_path.iterdir())
