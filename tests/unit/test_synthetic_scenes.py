"""The rendered COCO set: json that pycocotools reads, masks of what is seen, the same bytes every time."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from distseg.data.synthetic.scenes import _annotation, write_scenes
from distseg.data.synthetic.tabletop import KINDS, Seen, Table
from distseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode
GROUPS, VIEWS, SIZE = 5, 8, (160, 120)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "coco"
    write_scenes(out, groups=GROUPS, views=VIEWS, size=SIZE, seed=1)
    return out


@pytest.fixture(scope="module")
def coco(rendered):
    return COCO(rendered / "annotations.json")


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def form(annotation: dict) -> str:
    """Which of COCO's three ways of writing a mask."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        return "polygons"
    return "compressed" if isinstance(segmentation["counts"], str) else "uncompressed"


def test_same_arguments_give_the_same_bytes(rendered, tmp_path):
    write_scenes(tmp_path / "again", groups=GROUPS, views=VIEWS, size=SIZE, seed=1)
    assert digests(tmp_path / "again") == digests(rendered)


def test_another_seed_gives_other_pictures(rendered, tmp_path):
    write_scenes(tmp_path / "other", groups=1, views=2, size=SIZE, seed=4)
    assert not set(digests(tmp_path / "other").values()) & set(digests(rendered).values())


def test_a_picture_does_not_depend_on_how_many_are_asked_for(rendered, tmp_path):
    write_scenes(tmp_path / "fewer", groups=2, views=3, size=SIZE, seed=1)

    def entries(root: Path) -> dict[str, list]:
        document = json.loads((root / "annotations.json").read_text())
        names = {image["id"]: image["file_name"] for image in document["images"]}
        found = {name: [] for name in names.values()}
        for entry in document["annotations"]:
            found[names[entry["image_id"]]].append({**entry, "id": None, "image_id": None})
        return found

    fewer, more = digests(tmp_path / "fewer"), digests(rendered)
    pictures = [name for name in fewer if name.endswith(".jpg")]
    assert len(pictures) == 2 * 3
    assert all(fewer[name] == more[name] for name in pictures)
    assert entries(tmp_path / "fewer").items() <= entries(rendered).items()


def test_layout_is_cocos(rendered, coco):
    assert {path.name for path in rendered.iterdir()} == {"images", "annotations.json"}
    names = [image["file_name"] for image in coco.dataset["images"]]
    assert sorted(names) == sorted(path.name for path in (rendered / "images").iterdir())
    groups = [name.rpartition("_")[0] for name in names]
    assert [groups.count(group) for group in sorted(set(groups))] == [VIEWS] * GROUPS
    for image in coco.dataset["images"]:
        assert (image["width"], image["height"]) == SIZE
        assert cv2.imread(str(rendered / "images" / image["file_name"])).shape == (*SIZE[::-1], 3)


def test_categories_have_gaps_and_all_occur(coco):
    ids = [category["id"] for category in coco.dataset["categories"]]
    assert [category["name"] for category in coco.dataset["categories"]] == list(KINDS)
    assert sorted(set(ids)) == ids
    assert ids != list(range(ids[0], ids[0] + len(ids)))
    assert {entry["category_id"] for entry in coco.dataset["annotations"]} == set(ids)


def test_ids_are_unique_and_known(coco):
    entries = coco.dataset["annotations"]
    assert len({entry["id"] for entry in entries}) == len(entries)
    assert {entry["image_id"] for entry in entries} <= coco.imgs.keys()


def test_area_and_box_are_those_of_the_mask(coco):
    for entry in coco.dataset["annotations"]:
        mask = coco.annToMask(entry)
        assert mask.shape == SIZE[::-1]
        assert mask.sum() == entry["area"] > 0
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        assert entry["bbox"] == box


def test_polygons_stay_inside_the_picture(coco):
    for entry in coco.dataset["annotations"]:
        if form(entry) == "polygons":
            for outline in entry["segmentation"]:
                corners = np.array(outline).reshape(-1, 2)
                assert len(corners) >= 3
                assert (corners >= 0).all()
                assert (corners <= SIZE).all()


def test_all_three_forms_occur_crowds_and_pictures_without_objects(coco):
    entries = coco.dataset["annotations"]
    forms = [form(entry) for entry in entries]
    assert forms.count("polygons") > len(forms) / 2
    assert forms.count("compressed") > len(forms) / 20
    assert {form(entry) for entry in entries if entry["iscrowd"]} == {"uncompressed"}
    assert all(entry["iscrowd"] for entry in entries if form(entry) == "uncompressed")
    objects = [len(coco.imgToAnns[number]) for number in coco.imgs]
    assert objects.count(0) >= 1
    assert max(objects) >= 8


def test_written_masks_are_what_is_seen_and_never_what_is_hidden():
    """Each mask agrees with the pixels on top; the pixels on top belong to one object each."""
    table = Table(np.random.default_rng(0), SIZE)
    agree, crossing = [], 0
    coco = COCO()
    coco.imgs = {1: {"height": SIZE[1], "width": SIZE[0]}}
    for view in range(8):
        _, found = table.photograph(np.random.default_rng((0, view)))
        if found:
            assert sum(seen.mask.astype(int) for seen in found).max() == 1
        for seen in found:
            entry = _annotation(seen)
            if entry is None:
                continue
            mask = coco.annToMask({"image_id": 1, **entry})
            agree.append((mask & seen.mask).sum() / (mask | seen.mask).sum())
            hull = cv2.convexHull(np.argwhere(seen.mask)[:, ::-1].astype(np.int32))
            filled = cv2.fillConvexPoly(np.zeros_like(seen.mask), hull, 1)
            crossing += any((filled & other.mask).sum() > 20 for other in found if other is not seen)
    assert len(agree) > 30
    assert np.mean(agree) > 0.97
    assert crossing > 5


def test_an_object_with_a_hole_is_run_lengths_and_one_without_is_a_polygon():
    square = np.zeros((40, 40), np.uint8)
    square[8:28, 10:30] = 1  # of 20 x 20 canvas pixels = 10 x 10 in the picture
    ring = square.copy()
    ring[14:22, 16:24] = 0  # a hole of 8 x 8 canvas pixels = 4 x 4
    whole, holed = (_annotation(Seen(2, False, fine, fine[::2, ::2])) for fine in (square, ring))
    assert form(whole) == "polygons"
    assert whole["area"] == 100
    assert whole["bbox"] == [5, 4, 10, 10]
    assert form(holed) == "compressed"
    assert holed["area"] == 100 - 16


def test_next_to_nothing_is_not_labelled():
    fine = np.zeros((40, 40), np.uint8)
    fine[:6, :6] = 1  # 3 x 3 in the picture
    assert _annotation(Seen(0, False, fine, fine[::2, ::2])) is None


@pytest.mark.parametrize(
    "wrong", [{"groups": 0}, {"views": 0}, {"size": (63, 128)}, {"size": (128, 63)}, {"seed": -1}], ids=str
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, wrong):
    arguments = {"groups": 1, "views": 1, "size": (64, 64), "seed": 0} | wrong
    with pytest.raises(InputError, match=f"{next(iter(wrong))}.*wanted"):
        write_scenes(tmp_path / "deep" / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(InputError, match="exists already"):
        write_scenes(tmp_path, groups=1, views=1, size=(64, 64))
    assert digests(tmp_path).keys() == {"notes.txt"}


def test_nothing_is_left_when_rendering_fails(tmp_path, monkeypatch):
    def full_disk(*_: object) -> bytes:
        raise OSError("no space left on device")

    monkeypatch.setattr("distseg.data.synthetic.scenes._jpeg", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_scenes(tmp_path / "out", groups=1, views=1, size=(64, 64))
    assert not list(tmp_path.iterdir())
