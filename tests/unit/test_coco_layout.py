import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from distseg.data.layouts import read_corpus
from distseg.data.layouts.base import Instance, LayoutOptions
from distseg.data.layouts.coco import read, scan
from distseg.errors import DataError

# pycocotools 2.0.11 decodes with an __array__ that numpy 2 will not take for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WIDTH, HEIGHT = 6, 4
SQUARE = [1, 1, 3, 1, 3, 3, 1, 3]  # x, y of the corners: pixels of columns 1, 2 and rows 1, 2
SQUARE_MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
SQUARE_MASK[1:3, 1:3] = 1
# Column-major: column 0 and the top of column 1 are 5 background pixels, then 2 of the object, 2 not, 2 of it, 13 not.
SQUARE_RUNS = [5, 2, 2, 2, 13]


def write_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def an_image(number: int, file_name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": file_name, "width": WIDTH, "height": HEIGHT, **more}


def an_object(number: int, image: int, segmentation: Any, category: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def write_json(path: Path, images: list[Any], annotations: list[Any], categories: Any = None) -> Path:
    categories = [{"id": 1, "name": "nut"}] if categories is None else categories
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def objects(source: Path) -> tuple[Instance, ...]:
    sample = read(source).samples[0]
    assert sample.instances is not None
    return sample.instances.read()


def pixels(instance: Instance) -> Any:
    return coco.decode({"size": [HEIGHT, WIDTH], "counts": instance.counts.encode()})


def compressed(mask: Any) -> str:
    return str(coco.encode(np.asfortranarray(mask))["counts"].decode())


@pytest.mark.parametrize(
    "segmentation",
    [
        [SQUARE],
        {"size": [HEIGHT, WIDTH], "counts": SQUARE_RUNS},
        {"size": [HEIGHT, WIDTH], "counts": compressed(SQUARE_MASK)},
    ],
    ids=["polygon", "runs", "compressed"],
)
def test_every_form_of_outline(tmp_path: Path, segmentation: Any) -> None:
    write_image(tmp_path / "a.jpg")
    write_json(tmp_path / "all.json", [an_image(7, "a.jpg")], [an_object(1, 7, segmentation)])
    (instance,) = objects(tmp_path)
    assert (instance.label, instance.crowd) == (0, False)
    np.testing.assert_array_equal(pixels(instance), SQUARE_MASK)


def test_several_polygons_are_one_object(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    other = [4, 0, 6, 0, 6, 1, 4, 1]
    write_json(tmp_path / "all.json", [an_image(0, "a.jpg")], [an_object(1, 0, [SQUARE, other])])
    (instance,) = objects(tmp_path)
    assert pixels(instance).sum() == 4 + 2


def test_crowds_are_kept(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    crowd = {"size": [HEIGHT, WIDTH], "counts": SQUARE_RUNS}
    write_json(tmp_path / "all.json", [an_image(0, "a.jpg")], [an_object(1, 0, crowd, iscrowd=1)])
    assert objects(tmp_path)[0].crowd


def test_classes_by_id_and_images_without_objects(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write_image(tmp_path / "images" / name)
    categories = [{"id": 90, "name": "fig"}, {"id": 3, "name": "date"}]
    images = [an_image(5, "a.jpg"), an_image(4, "b.jpg")]
    write_json(tmp_path / "all.json", images, [an_object(1, 4, [SQUARE], category=90)], categories)
    corpus = read_corpus("coco", tmp_path)
    assert (corpus.task, corpus.classes, corpus.ignore_label) == ("instance", ("date", "fig"), None)
    labels = {}
    for sample in corpus.samples:
        assert sample.mask is None
        assert sample.instances is not None
        assert sample.group == sample.key
        labels[sample.key] = [instance.label for instance in sample.instances.read()]
    assert labels == {"a": [], "b": [1]}


@pytest.mark.parametrize(
    "file_name",
    [
        "a b.jpg",
        "images/a b.jpg",
        "images\\a b.jpg",
        "images\\1/a b.jpg",
        "../../label-studio/data/media/upload/1/a b.jpg",
        "..\\..\\label-studio\\media\\upload\\4\\a b.jpg",
        "/data/upload/1/a%20b.jpg",
        "/data/local-files/?d=photos/a%20b.jpg",
        "a%20b.jpg",
    ],
)
def test_paths_as_label_studio_writes_them(tmp_path: Path, file_name: str) -> None:
    write_image(tmp_path / "export" / "images" / "a b.jpg")
    write_image(tmp_path / "label-studio" / "data" / "media" / "upload" / "1" / "a b.jpg")  # outside of the folder
    write_json(tmp_path / "export" / "result.json", [an_image(0, file_name)], [])
    (sample,) = read(tmp_path / "export").samples
    assert sample.image == tmp_path / "export" / "images" / "a b.jpg"
    assert sample.key == "a-b"


@pytest.mark.parametrize(("file_name", "warned"), [("1/a.jpg", True), ("/upload/a.jpg", True), ("a.jpg", False)])
def test_another_image_of_the_name_is_taken_with_a_warning(tmp_path: Path, file_name: str, warned: bool) -> None:
    write_image(tmp_path / "2" / "a.jpg")
    write_json(tmp_path / "all.json", [an_image(0, file_name)], [])
    found = scan(tmp_path, LayoutOptions())
    assert found.corpus.samples[0].image == tmp_path / "2" / "a.jpg"
    lines = [(finding.severity, finding.code, finding.file, finding.message) for finding in found.findings]
    message = f"taken for '{file_name}' of all.json, because of its name alone"
    assert lines == [("warning", "image-by-name", str(tmp_path / "2" / "a.jpg"), message)] * warned


def test_links_that_make_a_loop(tmp_path: Path) -> None:
    write_image(tmp_path / "far" / "a.jpg")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "images").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "raw")
    write_json(tmp_path / "raw" / "all.json", [an_image(0, "x/a.jpg")], [])
    found = scan(tmp_path / "raw", LayoutOptions())
    assert [sample.image for sample in found.corpus.samples] == [tmp_path / "raw" / "images" / "a.jpg"]


@pytest.mark.parametrize("file_name", ["../secret.jpg", "images/../../secret.jpg", "{outside}/secret.jpg"])
def test_paths_never_lead_out(tmp_path: Path, file_name: str) -> None:
    write_image(tmp_path / "secret.jpg")
    write_image(tmp_path / "export" / "images" / "a.jpg")
    name = file_name.format(outside=tmp_path)
    write_json(tmp_path / "export" / "result.json", [an_image(0, name)], [])
    with pytest.raises(DataError, match=r"secret\.jpg: image of result\.json is not under"):
        read(tmp_path / "export")


def test_cocos_own_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "train2017" / "1.jpg")
    (tmp_path / "annotations").mkdir()
    path = write_json(tmp_path / "annotations" / "instances.json", [an_image(1, "1.jpg")], [])
    assert read(path).samples[0].key == "1"
    assert read(tmp_path).samples[0].key == "1"


def test_images_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("day", "night"):
        write_image(tmp_path / folder / "1.jpg")
    write_json(tmp_path / "all.json", [an_image(0, "day/1.jpg"), an_image(1, "night/1.jpg")], [])
    assert [sample.key for sample in read(tmp_path).samples] == ["day-1", "night-1"]
    write_json(tmp_path / "all.json", [an_image(0, "lost/1.jpg")], [])
    with pytest.raises(DataError, match=r"lost/1\.jpg: all\.json may mean .*day/1\.jpg or .*night/1\.jpg"):
        read(tmp_path)


def test_group_regex(tmp_path: Path) -> None:
    write_image(tmp_path / "tray3_7.jpg")
    write_json(tmp_path / "all.json", [an_image(0, "tray3_7.jpg")], [])
    assert read(tmp_path, LayoutOptions(group_regex=r"tray\d")).samples[0].group == "tray3"


@pytest.mark.parametrize("options", [LayoutOptions(ignore_label=0), LayoutOptions(classes=Path("names.txt"))])
def test_options_that_do_not_apply(tmp_path: Path, options: LayoutOptions) -> None:
    with pytest.raises(DataError, match="layout coco: takes no class file and no ignore label"):
        read(tmp_path, options)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "it has no outline"),
        ([], "it has no outline"),
        ("x", "outline is a str"),
        ([[1, 1, 3, 3]], "polygon is no list of x and y of at least three points"),  # pycocotools: a box
        ([[1, 1, 3, 3, 2]], "polygon is no list"),
        ([7], "polygon is no list"),
        ([[1, 1, 3, 1, 3, "3"]], "a coordinate that is no number"),
        ([[1, 1, 3, 1, 3, True]], "a coordinate that is no number"),
        ([[1, 1, 1e9, 1, 3, 3]], r"coordinate 1e\+09, far outside an image of 6x4"),
        ({"size": [WIDTH, HEIGHT], "counts": SQUARE_RUNS}, r"of size \[6, 4\], want the image's .* \[4, 6\]"),
        ({"counts": SQUARE_RUNS}, "of size None"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 2]}, "no whole numbers that add up to the image's 24 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": [25, -1]}, "no whole numbers"),
        ({"size": [HEIGHT, WIDTH], "counts": [24.0]}, "no whole numbers"),
        ({"size": [HEIGHT, WIDTH], "counts": None}, "run lengths are a NoneType"),
        ({"size": [HEIGHT, WIDTH], "counts": "zz"}, "no compressed COCO string"),  # pycocotools reads foreign memory
        ({"size": [HEIGHT, WIDTH], "counts": "5"}, "do not fill the image of 6x4"),
    ],
)
def test_outlines_that_are_none(tmp_path: Path, segmentation: Any, message: str) -> None:
    write_image(tmp_path / "a.jpg")
    write_json(tmp_path / "all.json", [an_image(0, "a.jpg")], [an_object(31, 0, segmentation)])
    with pytest.raises(DataError, match=rf"all\.json: annotation 31 of a\.jpg: .*{message}"):
        objects(tmp_path)


def test_size_of_the_json_must_be_the_images(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", (WIDTH + 1, HEIGHT))
    write_json(tmp_path / "all.json", [an_image(0, "a.jpg")], [])
    with pytest.raises(DataError, match=r"a\.jpg: image is 7x4, all\.json says 6x4"):
        objects(tmp_path)


NAN = float("nan")


@pytest.mark.parametrize(
    ("images", "annotations", "categories", "message"),
    [
        ([an_image(0, "a.jpg")], [an_object(1, 9, [SQUARE])], None, "annotation 1: no image has id 9"),
        ([an_image(0, "a.jpg")], [an_object(1, 0, [SQUARE], 2)], None, "annotation 1: no category has id 2"),
        ([an_image(0, "a.jpg")] * 2, [], None, r"images\[1\]: a second id 0"),
        ([an_image(0, "a.jpg", width=-1)], [], None, r"images\[0\] width: Input should be greater than 0"),
        ([an_image(0, "a.jpg", width=10**9)], [], None, r"images\[0\] width: Input should be less than"),
        ([an_image(0, "a.jpg", height=NAN)], [], None, r"images\[0\] height: "),
        ([{"id": 0}], [], None, r"images\[0\] file_name: Field required"),
        (["a.jpg"], [], None, r"images\[0\]: "),
        ([an_image(0, "a.jpg")], [an_object(1, "0", [SQUARE])], None, r"annotations\[0\] image_id: "),  # type: ignore[arg-type]
        ([an_image(0, "a.jpg")], [], [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}], "two categories are named 'x'"),
    ],
)
def test_entries_that_cannot_be(tmp_path: Path, images: Any, annotations: Any, categories: Any, message: str) -> None:
    write_image(tmp_path / "a.jpg")
    write_json(tmp_path / "all.json", images, annotations, categories)
    with pytest.raises(DataError, match=rf"all\.json: {message}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as json"),
        ("[" * 100_000, "cannot be read as json"),
        ("[]", "holds a list"),
        ('{"images": [], "annotations": {}, "categories": []}', "no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "0 images and 0 categories"),
    ],
)
def test_files_that_are_no_coco(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "all.json").write_text(text)
    with pytest.raises(DataError, match=rf"all\.json: {message}"):
        read(tmp_path)


def test_which_json(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match="no json file"):
        read(tmp_path)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"2 json files \(a\.json, b\.json\), want one; name it"):
        read(tmp_path)
