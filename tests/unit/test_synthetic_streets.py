"""The rendered street scenes: CamVid's two layouts to the letter, the same bytes every time, every class it should."""

import csv
import hashlib
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from distseg.data.synthetic.camvid import RGB, SEGNET, Label, to_segnet
from distseg.data.synthetic.streets import write_streets
from distseg.errors import InputError

GROUPS, VIEWS, SIZE = 4, 6, (160, 120)
VOID = 11


@pytest.fixture(scope="module")
def segnet(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "segnet"
    write_streets(out, groups=GROUPS, views=VIEWS, size=SIZE, seed=3)
    return out


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "coloured"
    write_streets(out, groups=GROUPS, views=VIEWS, size=SIZE, classes=32, seed=3)
    return out


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def label_maps(root: Path) -> dict[str, np.ndarray]:
    """Stem -> label map of indices, of all splits."""
    return {path.stem: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(root.glob("*annot/*.png"))}


def colour_maps(root: Path) -> dict[str, np.ndarray]:
    """Stem -> RGB map."""
    return {
        path.stem.removesuffix("_L"): cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
        for path in sorted((root / "masks").iterdir())
    }


def test_same_arguments_give_the_same_bytes(segnet, tmp_path):
    write_streets(tmp_path / "again", groups=GROUPS, views=VIEWS, size=SIZE, seed=3)
    assert digests(tmp_path / "again") == digests(segnet)


def test_another_seed_gives_other_streets(segnet, tmp_path):
    write_streets(tmp_path / "other", groups=3, views=1, size=SIZE, seed=4)
    assert not set(digests(tmp_path / "other").values()) & set(digests(segnet).values())


def test_a_frame_does_not_depend_on_how_many_are_asked_for(segnet, tmp_path):
    write_streets(tmp_path / "fewer", groups=3, views=2, size=SIZE, seed=3)
    fewer, more = digests(tmp_path / "fewer"), digests(segnet)
    assert len(fewer) == 3 * 2 * 2
    assert fewer.items() <= more.items()


def test_segnet_layout_splits_whole_sequences(segnet):
    folders = {path.name for path in segnet.iterdir()}
    assert folders == {"train", "trainannot", "val", "valannot", "test", "testannot"}
    sequences = {}
    for split in ("train", "val", "test"):
        names = sorted(path.name for path in (segnet / split).iterdir())
        assert names == sorted(path.name for path in (segnet / f"{split}annot").iterdir())
        sequences[split] = {name.rpartition("_")[0] for name in names}
        frames = {f"{sequence}_{30 * k:06d}.png" for sequence in sequences[split] for k in range(1, VIEWS + 1)}
        assert set(names) == frames
    assert [len(sequences[split]) for split in ("train", "val", "test")] == [2, 1, 1]
    assert len(set.union(*sequences.values())) == GROUPS


def test_pictures_are_colour_and_label_maps_are_indices(segnet):
    for path in segnet.glob("*/*.png"):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint8
        assert picture.shape == (SIZE[::-1] if path.parent.name.endswith("annot") else (*SIZE[::-1], 3))


def test_every_class_and_void_occur_in_every_split_and_rare_ones_are_rare(segnet):
    share = {}
    for split in ("train", "val", "test"):
        maps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (segnet / f"{split}annot").iterdir()]
        counts = np.bincount(np.stack(maps).ravel())
        assert len(counts) == VOID + 1
        assert counts.min() > 0
        share[split] = counts / counts.sum()
    mean = np.mean(list(share.values()), axis=0)
    by_name = dict(zip([name for name, _ in SEGNET], mean, strict=False))
    assert min(by_name["Sky"], by_name["Building"], by_name["Road"]) > 0.1
    assert max(by_name["SignSymbol"], by_name["Pedestrian"], by_name["Bicyclist"]) < 0.05
    assert 0.002 < mean[VOID] < 0.12


def test_32_classes_show_the_same_pictures_with_colour_maps(segnet, coloured):
    assert {path.name for path in coloured.iterdir()} == {"images", "masks", "class_dict.csv"}
    pictures = {
        path.name: path.read_bytes() for split in ("train", "val", "test") for path in (segnet / split).iterdir()
    }
    assert {path.name: path.read_bytes() for path in (coloured / "images").iterdir()} == pictures
    assert {path.name for path in (coloured / "masks").iterdir()} == {f"{name[:-4]}_L.png" for name in pictures}


def test_colours_are_those_of_the_class_file_and_merge_into_the_indices(segnet, coloured):
    with open(coloured / "class_dict.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "r", "g", "b"]
    index = {(int(row["r"]), int(row["g"]), int(row["b"])): number for number, row in enumerate(rows)}
    assert len(index) == 32
    assert index[(0, 0, 0)] == Label.Void
    assert rows[Label.Bicyclist] == {"name": "Bicyclist", "r": "0", "g": "128", "b": "192"}
    merged, seen = to_segnet(), set()
    maps = label_maps(segnet)
    for stem, colours in colour_maps(coloured).items():
        fine = np.array([index[tuple(colour)] for colour in colours.reshape(-1, 3).tolist()]).reshape(SIZE[::-1])
        np.testing.assert_array_equal(merged[fine], maps[stem])
        seen |= set(np.unique(fine).tolist())
    assert len(seen) >= 20


def test_segnets_classes_take_each_of_camvids_once():
    names = "Sky,Building,Pole,Road,Pavement,Tree,SignSymbol,Fence,Car,Pedestrian,Bicyclist"
    assert ",".join(name for name, _ in SEGNET) == names
    labels = [label for _, members in SEGNET for label in members]
    assert sorted([*labels, Label.Void]) == list(Label)
    assert RGB.shape == (32, 3)
    # Sky is 0, walls are part of Building (1), cones of Pole (2), lane marks of Road (3).
    assert to_segnet()[[Label.Sky, Label.Wall, Label.TrafficCone, Label.LaneMkgsDriv, Label.Void]].tolist() == [
        0, 1, 2, 3, VOID,
    ]  # fmt: skip


def test_the_camera_drives_on(segnet):
    """Frames that follow each other share more than frames further apart, and none is a copy."""
    maps = label_maps(segnet)
    stems = sorted(maps)
    near, far = [], []
    for start in range(0, len(stems), VIEWS):
        frames = [maps[stem] for stem in stems[start : start + VIEWS]]
        near += [np.mean(a == b) for a, b in pairwise(frames)]
        far += [np.mean(a == b) for a, b in zip(frames, frames[4:], strict=False)]
    assert max(near) < 0.999
    assert np.mean(near) > np.mean(far)


def test_the_label_map_sits_on_the_picture(segnet):
    """The pictures change more along the outline of the sky than along the same line moved by 2 pixels any way."""
    on_outline, aside = [], []
    for path in sorted(segnet.glob("*annot/*.png")):
        sky = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 0).astype(np.uint8)
        picture = cv2.imread(str(path.parent.parent / path.parent.name.removesuffix("annot") / path.name), 0)
        change = np.hypot(cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1))
        outline = cv2.morphologyEx(sky, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        on_outline.append(change[outline].mean())
        aside.append([change[np.roll(outline, shift, (0, 1))].mean() for shift in ((0, 2), (0, -2), (2, 0), (-2, 0))])
    assert np.mean(on_outline) > 1.1 * np.mean(aside)


@pytest.mark.parametrize(
    "wrong",
    [{"groups": 2}, {"views": 0}, {"size": (63, 128)}, {"size": (128, 63)}, {"classes": 12}, {"seed": -1}],
    ids=str,
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, wrong):
    arguments = {"groups": 3, "views": 1, "size": (64, 64), "seed": 0} | wrong
    with pytest.raises(InputError, match=f"{next(iter(wrong))}.*wanted"):
        write_streets(tmp_path / "deep" / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists already"):
        write_streets(tmp_path, groups=3, views=1, size=(64, 64))
    assert digests(tmp_path).keys() == {"notes.txt"}


def test_nothing_is_left_when_rendering_fails(tmp_path, monkeypatch):
    def full_disk(*_: object) -> bytes:
        raise OSError("no space left on device")

    monkeypatch.setattr("distseg.data.synthetic.streets._png", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_streets(tmp_path / "out", groups=3, views=1, size=(64, 64))
    assert not list(tmp_path.iterdir())
