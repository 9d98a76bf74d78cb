"""A corpus of broken folders: one for each thing that an audit finds."""

import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.cli.main import main
from distseg.data.audit import AuditReport, Finding, audit
from distseg.data.findings import summary
from distseg.data.layouts.base import LayoutOptions
from distseg.data.raw_image import read_image, shown_size

GOOD = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
SIZE = (3, 2)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """No two seeds give the same picture."""
    width, height = size
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def write(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_mask(path: Path, labels: Any) -> Path:
    return write(Image.fromarray(np.asarray(labels, np.uint8)), path)


def write_good(source: Path, *stems: str, images: str = "images", masks: str = "masks") -> None:
    for stem in stems:
        write(picture(zlib.crc32(stem.encode())), source / images / f"{stem}.png")
        write_mask(source / masks / f"{stem}.png", GOOD)


def folders(source: Path, **options: Any) -> AuditReport:
    """An audit with the classes named, so that no note says that they were counted."""
    names = source / "names.txt"
    names.write_text("ground\nthing\n")
    return audit("folders", source, LayoutOptions(classes=names, **options))


def only(report: AuditReport) -> tuple[str, str, str]:
    """Severity, code and file's name of the one finding that there is."""
    (found,) = report.findings
    return found.severity, found.code, Path(found.file).name


def test_nothing_to_find(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    report = folders(tmp_path)
    assert (report.images, report.findings) == (2, ())


def test_mask_of_0_and_255(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write_mask(tmp_path / "masks" / "b.png", GOOD * 255)
    report = folders(tmp_path)
    assert only(report) == ("error", "mask-0-255", "b.png")
    assert "divide the masks by 255" in report.findings[0].remedy


def test_mask_of_0_and_255_where_classes_are_counted(tmp_path: Path) -> None:
    write_good(tmp_path, "a")
    write_mask(tmp_path / "masks" / "a.png", GOOD * 255)
    report = audit("folders", tmp_path)
    assert [(found.severity, found.code) for found in report.findings] == [
        ("error", "mask-0-255"),
        ("note", "classes-counted"),
    ]


def test_mask_of_0_and_255_that_carvana_reads_as_it_is_meant(tmp_path: Path) -> None:
    write_good(tmp_path, "car_01", images="train", masks="train_masks")
    (tmp_path / "train" / "car_01.png").rename(tmp_path / "train" / "car_01.jpg")
    write_mask(tmp_path / "train_masks" / "car_01.png", GOOD * 255)
    assert only(audit("carvana", tmp_path)) == ("note", "mask-0-255", "car_01.png")


def test_rgb_mask(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write(picture(1), tmp_path / "masks" / "b.png")
    assert only(folders(tmp_path)) == ("error", "mask-rgb", "b.png")


def test_unlisted_colour(tmp_path: Path) -> None:
    write_good(tmp_path, "a")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\nthing,9,9,9\n")
    write_mask(tmp_path / "masks" / "a.png", [[[0, 0, 0], [9, 9, 9], [9, 9, 8]], [[0, 0, 0]] * 3])
    assert only(audit("folders", tmp_path)) == ("error", "mask-colour", "a.png")


def test_palette_mask(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    mask = Image.frombytes("P", SIZE, GOOD.tobytes())
    mask.putpalette([0, 0, 0, 128, 0, 0])
    write(mask, tmp_path / "masks" / "b.png")
    assert only(folders(tmp_path)) == ("warning", "mask-palette", "b.png")


def test_mask_of_16_bits(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write(Image.fromarray(GOOD.astype(np.uint16)), tmp_path / "masks" / "b.png")
    assert only(folders(tmp_path)) == ("error", "mask-16-bit", "b.png")


def test_mask_that_is_a_jpeg(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    (tmp_path / "masks" / "b.png").unlink()
    write_mask(tmp_path / "masks" / "b.jpg", GOOD)
    assert only(folders(tmp_path)) == ("error", "mask-jpeg", "b.jpg")


def test_sizes_that_differ(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write_mask(tmp_path / "masks" / "b.png", GOOD.T)
    report = folders(tmp_path)
    assert only(report) == ("error", "size-differs", "b.png")
    assert report.findings[0].message == "mask is 2x3, image is 3x2"


def test_orphans_on_either_side(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b", "c")
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "images" / "c.png").unlink()
    report = folders(tmp_path)
    assert [(found.severity, found.code, Path(found.file).parts[-2:]) for found in report.findings] == [
        ("error", "orphan-image", ("images", "b.png")),
        ("error", "orphan-mask", ("masks", "c.png")),
    ]
    assert report.images == 1


def test_two_masks_of_one_image(tmp_path: Path) -> None:
    write_good(tmp_path, "a")
    write_mask(tmp_path / "masks" / "a_L.png", GOOD)
    assert only(folders(tmp_path)) == ("error", "duplicate-mask", "a_L.png")


def test_two_images_of_one_name(tmp_path: Path) -> None:
    write_good(tmp_path, "a")
    write(picture(77), tmp_path / "images" / "a.webp")
    assert only(folders(tmp_path)) == ("error", "duplicate-name", "a.webp")


@pytest.mark.parametrize(("level", "code"), [(0, "mask-empty"), (1, "mask-full")])
def test_empty_and_full_masks(tmp_path: Path, level: int, code: str) -> None:
    write_good(tmp_path, "a", "b")
    write_mask(tmp_path / "masks" / "b.png", np.full((2, 3), level))
    assert only(folders(tmp_path)) == ("warning", code, "b.png")


def test_mask_that_is_all_void(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write_mask(tmp_path / "masks" / "b.png", np.full((2, 3), 9))
    report = folders(tmp_path, ignore_label=9)
    assert only(report) == ("warning", "mask-empty", "b.png")
    assert report.findings[0].message == "every pixel of its mask is ignored"


def test_label_out_of_range(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write_mask(tmp_path / "masks" / "b.png", GOOD * 2)
    report = folders(tmp_path)
    assert only(report) == ("error", "label-range", "b.png")
    assert report.findings[0].message == "label 2 is no class, want 0..1"


def with_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_exif_rotation(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    (tmp_path / "images" / "b.png").unlink()
    write(picture(5, (2, 3)), tmp_path / "images" / "b.jpg", exif=with_exif(6))  # 2x3 as stored, 3x2 as shown
    assert only(folders(tmp_path)) == ("warning", "image-exif", "b.jpg")


def test_exif_rotation_that_the_mask_does_not_have(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    (tmp_path / "images" / "b.png").unlink()
    write(picture(5), tmp_path / "images" / "b.jpg", exif=with_exif(8))  # 3x2 as stored, as the mask is
    wrong, turned = folders(tmp_path).findings
    assert (wrong.code, turned.code) == ("size-differs", "image-exif")
    assert wrong.message == "mask is 3x2, image is 2x3 once EXIF has turned it"


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_that_are_packed(tmp_path: Path, ending: str, orientation: int) -> None:
    """Whether PIL has turned a picture's size already depends on its format."""
    path = write(picture(5), tmp_path / "images" / f"a.{ending}", exif=with_exif(orientation))
    width, height = shown_size(path)
    assert (width, height) == read_image(path).size == ((2, 3) if orientation >= 5 else (3, 2))
    write_mask(tmp_path / "masks" / "a.png", np.eye(height, width))
    found = [("warning", "image-exif")] if orientation > 1 else []
    assert [(finding.severity, finding.code) for finding in folders(tmp_path).findings] == found


def test_image_of_16_bits(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write(Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3)), tmp_path / "images" / "b.png")
    report = folders(tmp_path)
    assert [(found.severity, found.code, Path(found.file).name) for found in report.findings] == [
        ("warning", "image-16-bit", "b.png"),
        ("note", "image-grey", "b.png"),
    ]


def test_grey_image(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b")
    write(picture(5).convert("L"), tmp_path / "images" / "b.png")
    assert only(folders(tmp_path)) == ("note", "image-grey", "b.png")


def test_one_file_under_two_names(tmp_path: Path) -> None:
    write_good(tmp_path, "a_1", "b_1")
    (tmp_path / "images" / "b_1.png").write_bytes((tmp_path / "images" / "a_1.png").read_bytes())
    report = folders(tmp_path)
    assert only(report) == ("warning", "duplicate-image", "b_1.png")
    assert "a_1.png, but stands in group 'b' and not 'a'" in report.findings[0].message


def test_group_on_both_sides_of_a_given_split(tmp_path: Path) -> None:
    write_good(tmp_path, "seq1_1", "seq1_2", "seq2_1", images="train", masks="trainannot")
    write_good(tmp_path, "seq1_3", "seq3_1", images="val", masks="valannot")
    report = folders(tmp_path)
    assert only(report) == ("warning", "group-in-splits", "seq1_3.png")
    assert "group 'seq1' is on several sides of the folder's own split (train 2, val 1)" in report.findings[0].message


def test_absent_and_rare_classes(tmp_path: Path) -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[0, :3] = 1  # 3 of 400 pixels: 0.75 %
    write(picture(1, (20, 20)), tmp_path / "images" / "a.png")
    write_mask(tmp_path / "masks" / "a.png", labels)
    names = tmp_path / "class_dict.csv"
    names.write_text("ground\nthing\nunicorn\n")
    report = audit("folders", tmp_path)
    assert [(found.severity, found.code, found.message) for found in report.findings] == [
        ("warning", "class-absent", "class 'unicorn' has no labelled pixels"),
        ("warning", "class-rare", "class 'thing' has 0.75% of all labelled pixels"),
    ]


@pytest.mark.parametrize(("folder", "code"), [("images", "unreadable-image"), ("masks", "unreadable-mask")])
@pytest.mark.parametrize("data", [b"", b"no picture", None], ids=["empty", "garbage", "cut short"])
def test_unreadable_files(tmp_path: Path, folder: str, code: str, data: bytes | None) -> None:
    write_good(tmp_path, "a", "b")
    path = tmp_path / folder / "b.png"
    path.write_bytes(path.read_bytes()[:48] if data is None else data)
    assert only(folders(tmp_path)) == ("error", code, "b.png")


def test_a_jpeg_cut_short(tmp_path: Path) -> None:
    write_good(tmp_path, "a")
    (tmp_path / "images" / "a.png").unlink()
    path = write(picture(1, (64, 64)), tmp_path / "images" / "a.jpg")
    write_mask(tmp_path / "masks" / "a.png", np.eye(64))
    path.write_bytes(path.read_bytes()[:-600])
    assert only(folders(tmp_path)) == ("error", "unreadable-image", "a.jpg")


def test_images_that_declare_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_good(tmp_path, "a")
    monkeypatch.setattr("distseg.data.sample_checks.MAX_PIXELS", 5)
    report = folders(tmp_path)
    assert only(report) == ("error", "unreadable-image", "a.png")
    assert report.findings[0].message == "image declares 3x2 pixels, more than 5"


def test_no_group_in_a_name(tmp_path: Path) -> None:
    write_good(tmp_path, "cam1-1", "other")
    assert only(folders(tmp_path, group_regex=r"cam\d")) == ("error", "no-group", "other.png")


def test_everything_is_looked_at(tmp_path: Path) -> None:
    """One bad file hides no other."""
    write_good(tmp_path, "a", "b", "c", "d")
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    write_mask(tmp_path / "masks" / "b.png", GOOD * 255)
    (tmp_path / "masks" / "c.png").unlink()
    write(picture(9), tmp_path / "masks" / "d.png")
    report = folders(tmp_path)
    assert [found.code for found in report.errors] == ["mask-0-255", "mask-rgb", "orphan-image", "unreadable-image"]


def test_a_folder_not_laid_out_so(tmp_path: Path) -> None:
    report = audit("folders", tmp_path)
    assert only(report) == ("error", "layout", tmp_path.name)
    assert "images + masks" in report.findings[0].message


def test_carvana_rows_and_names(tmp_path: Path) -> None:
    for key in ("a_01", "a_02", "photo"):
        write(picture(zlib.crc32(key.encode())), tmp_path / "train" / f"{key}.jpg")
    (tmp_path / "train_masks.csv").write_text("img,rle_mask\na_01.jpg,1 2\na_02.jpg,6 2\nphoto.jpg,1 2\n")
    report = audit("carvana", tmp_path)
    assert [(found.code, Path(found.file).name) for found in report.findings] == [
        ("bad-name", "photo.jpg"),
        ("run-lengths", "train_masks.csv"),
    ]


def test_carvana_without_run_lengths_of_an_image(tmp_path: Path) -> None:
    for key in ("a_01", "a_02"):
        write(picture(zlib.crc32(key.encode())), tmp_path / "train" / f"{key}.jpg")
    (tmp_path / "train_masks.csv").write_text("img,rle_mask\na_01.jpg,1 2\nb_01.jpg,1 2\n")
    report = audit("carvana", tmp_path)
    assert [found.code for found in report.findings] == ["orphan-image", "orphan-mask"]
    assert "mask 'b_01' in train_masks.csv" in report.findings[1].message


def coco(source: Path, outlines: list[Any], *, file_name: str = "a.png", categories: int = 1) -> AuditReport:
    annotations = [
        {"id": number, "image_id": 0, "category_id": 0, "segmentation": outline}
        for number, outline in enumerate(outlines)
    ]
    images = [{"id": 0, "file_name": file_name, "width": 3, "height": 2}]
    names = [{"id": number, "name": f"thing{number}"} for number in range(categories)]
    tree = {"images": images, "annotations": annotations, "categories": names}
    (source / "all.json").write_text(json.dumps(tree))
    return audit("coco", source)


TRIANGLE = [[0, 0, 3, 0, 0, 2]]


@pytest.mark.parametrize(
    ("outlines", "expected"),
    [
        ([TRIANGLE], []),
        ([], [("note", "no-objects", "a.png")]),
        ([[]], [("error", "bad-outline", "all.json")]),
        ([TRIANGLE, {"size": [2, 3], "counts": [6]}], [("warning", "object-empty", "a.png")]),
    ],
)
def test_objects(tmp_path: Path, outlines: list[Any], expected: list[tuple[str, str, str]]) -> None:
    write(picture(1), tmp_path / "a.png")
    report = coco(tmp_path, outlines)
    assert [(found.severity, found.code, Path(found.file).name) for found in report.findings] == expected


def test_orphans_of_a_json(tmp_path: Path) -> None:
    write(picture(1), tmp_path / "other.png")
    report = coco(tmp_path, [TRIANGLE])
    assert [(found.severity, found.code, Path(found.file).name) for found in report.findings] == [
        ("error", "missing-image", "a.png"),
        ("warning", "orphan-image", "other.png"),
    ]


def test_classes_without_objects(tmp_path: Path) -> None:
    write(picture(1), tmp_path / "a.png")
    (found,) = coco(tmp_path, [TRIANGLE], categories=2).findings
    assert (found.code, found.message) == ("class-absent", "class 'thing1' has no objects")


def test_object_sizes_that_differ(tmp_path: Path) -> None:
    write(picture(1, (4, 2)), tmp_path / "a.png")
    assert only(coco(tmp_path, [TRIANGLE])) == ("error", "size-differs", "a.png")


def test_names_that_packing_refuses(tmp_path: Path) -> None:
    write_good(tmp_path, "a", "b" * 95)
    assert only(folders(tmp_path)) == ("error", "bad-name", "b" * 95 + ".png")


def test_processes_change_nothing_and_progress_counts(tmp_path: Path) -> None:
    write_good(tmp_path, *"abcdef")
    write_mask(tmp_path / "masks" / "c.png", GOOD * 255)
    calls: list[tuple[int, int]] = []
    one = audit("folders", tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]
    assert audit("folders", tmp_path, workers=2) == one


def test_summary_names_the_first_files() -> None:
    findings = [Finding(severity="error", code="x", file=f"/d/{n}.png", message=f"m{n}", remedy="r") for n in range(5)]
    assert summary(findings) == [("error", "x", 5, "0.png, 1.png, 2.png, ...", "m0", "r")]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["distseg", "data", "audit", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_good(tmp_path, "a", "b")
    write_mask(tmp_path / "masks" / "b.png", GOOD * 0)
    assert run(monkeypatch, str(tmp_path), "--layout", "folders") == 0
    warned, noted, last = capsys.readouterr().out.splitlines()
    assert warned.startswith(f"warning mask-empty: {tmp_path}/images/b.png: every pixel of its mask is 'class_0'; ")
    assert noted.startswith(f"note classes-counted: {tmp_path}/masks: ")
    assert last == f"{tmp_path}: 2 images, no error, 1 warnings, 1 notes"


def test_command_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_good(tmp_path, "a", "b")
    write_mask(tmp_path / "masks" / "b.png", GOOD * 3)
    names = tmp_path / "names.txt"
    names.write_text("ground\nthing\n")
    assert run(monkeypatch, str(tmp_path), "--layout", "folders", "--classes", str(names), "--json") == 2
    out, err = capsys.readouterr()
    tree = json.loads(out)
    assert (tree["images"], tree["errors"], tree["warnings"]) == (2, 1, 0)
    (found,) = tree["findings"]
    assert found.keys() == {"severity", "code", "file", "message", "remedy"}
    assert (found["code"], found["file"]) == ("label-range", str(tmp_path / "masks" / "b.png"))
    assert "1 errors, want none" in err
