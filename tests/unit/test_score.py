"""Kaggle's score: Dice from run lengths, and how rows and truth are matched."""

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from typer.testing import CliRunner

from distseg.cli import main as cli
from distseg.cli.submission import score as score_command
from distseg.data import rle
from distseg.errors import DataError
from distseg.predict.score import dice, score

PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(bool, shape, fill=st.booleans())] * 2)
)


def write_csv(path: Path, *rows: str, header: str = "img,rle_mask") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def save_mask(path: Path, mask: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)


def test_dice_by_hand() -> None:
    a, b = rle.parse("2 4 10 3"), rle.parse("4 8")  # pixels 2-5 and 10-12; 4-11
    # in common 4, 5, 10, 11: 2 * 4 / (7 + 8)
    assert dice(a, b) == dice(b, a) == 8 / 15


def test_dice_of_empty_masks() -> None:
    empty, some = rle.parse(""), rle.parse("1 5")
    assert dice(empty, empty) == 1  # Kaggle's rule for Carvana
    assert dice(empty, some) == dice(some, empty) == 0


def test_dice_of_runs_that_touch() -> None:
    assert dice(rle.parse("1 2 3 2"), rle.parse("2 3")) == 6 / 7  # 1-4 and 2-4: 2 * 3 / (4 + 3)


@given(PAIRS)
def test_dice_of_runs_is_dice_of_pixels(pair: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]) -> None:
    a, b = pair
    both, total = int((a & b).sum()), int(a.sum()) + int(b.sum())
    assert dice(rle.edges(a), rle.edges(b)) == (2 * both / total if total else 1)


def test_mean_over_what_both_have_and_the_rest_by_name(tmp_path: Path) -> None:
    truth = write_csv(tmp_path / "truth.csv", "a.jpg,1 4", "b.jpg,", "c.jpg,1 1", "d.jpg,2 2")
    rows = write_csv(tmp_path / "rows.csv", "z.jpg,1 1", "c.jpg,", "b.jpg,", "a.jpg,3 4")
    found = score(rows, truth)
    # a: 1-4 against 3-6: 2 * 2 / (4 + 4) = 0.5; b: empty twice = 1; c: empty against one pixel = 0
    assert found.dice_mean_per_image == pytest.approx((0.5 + 1 + 0) / 3)
    assert (found.images, found.missing, found.extra) == (3, ("d.jpg",), ("z.jpg",))


@pytest.mark.parametrize(
    ("names", "decoy"),
    [
        (("a_mask.gif", "b_mask.png"), "b.png"),  # marked masks: other pictures beside them do not count
        (("a.png", "b.png"), "c.gif"),
    ],
)
def test_folder_of_masks(tmp_path: Path, names: tuple[str, str], decoy: str) -> None:
    masks = tmp_path / "masks"
    for name in names:
        save_mask(masks / name, np.array([[0, 255, 255], [255, 0, 0]], np.uint8))  # pixels 2, 3, 4
    save_mask(masks / decoy, np.zeros((2, 3), np.uint8))
    rows = write_csv(tmp_path / "rows.csv", "a.jpg,2 3", "b.jpg,4 3")
    # a: 1; b: 2-4 against 4-6: 2 * 1 / (3 + 3)
    assert score(rows, masks).dice_mean_per_image == pytest.approx((1 + 1 / 3) / 2)
    twice = write_csv(tmp_path / "twice.csv", "a.jpg,2 3", "a.png,2 3")
    with pytest.raises(DataError, match=r"'a\.png' is a second row for 'a'"):
        score(twice, masks)


def test_csv_and_folder_agree(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    truth, rows = [], []
    for index in range(3):
        mask, guess = draw.random((2, 17, 23)) < 0.4
        save_mask(tmp_path / "masks" / f"{index}_mask.gif", mask.astype(np.uint8) * 255)
        truth.append(f"{index}.jpg,{rle.encode(mask)}")
        rows.append(f"{index}.jpg,{rle.encode(guess)}")
    submission = write_csv(tmp_path / "rows.csv", *rows)
    of_csv = score(submission, write_csv(tmp_path / "truth.csv", *truth))
    of_folder = score(submission, tmp_path / "masks")
    assert of_csv == of_folder
    assert 0 < of_csv.dice_mean_per_image < 1


def test_a_field_longer_than_csv_allows_by_default(tmp_path: Path) -> None:
    runs = " ".join(f"{start} 1" for start in range(1, 60_000, 2))  # 30,000 runs in more than 200,000 characters
    path = write_csv(tmp_path / "long.csv", f"a.jpg,{runs}")
    assert score(path, path).dice_mean_per_image == 1


@pytest.mark.parametrize(
    ("rows", "header", "says"),
    [
        (("a.jpg,1 1", "a.jpg,1 1"), "img,rle_mask", "line 3: 'a.jpg' stands there twice"),
        (("a.jpg,1 1",), "id,rle", "header 'id,rle', want 'img,rle_mask'"),
        (("a.jpg,1 1,5",), "img,rle_mask", "line 2: 3 fields"),
        (("a.jpg,1 0",), "img,rle_mask", "'a.jpg': run 1"),
        (("b.jpg,1 1",), "img,rle_mask", "none of its 1 images is among the 1"),
        ((), "img,rle_mask", "none of its 0 images"),
    ],
)
def test_refused(tmp_path: Path, rows: tuple[str, ...], header: str, says: str) -> None:
    truth = write_csv(tmp_path / "truth.csv", "a.jpg,1 1")
    with pytest.raises(DataError, match=says):
        score(write_csv(tmp_path / "rows.csv", *rows, header=header), truth)


def test_files_that_are_no_csv(tmp_path: Path) -> None:
    truth = write_csv(tmp_path / "truth.csv", "a.jpg,1 1")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match="not a csv file"):
        score(tmp_path / "picture.csv", truth)
    with pytest.raises(DataError, match="cannot be read"):
        score(tmp_path / "absent.csv", truth)


def test_bad_truths_name_themselves(tmp_path: Path) -> None:
    rows = write_csv(tmp_path / "rows.csv", "a.jpg,1 7")
    with pytest.raises(DataError, match=r"truth\.csv: 'a\.jpg': run lengths"):
        score(rows, write_csv(tmp_path / "truth.csv", "a.jpg,1 x"))
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(DataError, match="no masks"):
        score(rows, masks)
    save_mask(masks / "a_mask.png", np.ones((2, 3), np.uint8))
    with pytest.raises(DataError, match=r"a_mask\.png: the submitted run 1: ends at pixel 7 of an image of 6"):
        score(rows, masks)
    (masks / "a_mask.png").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"a_mask\.png: mask cannot be decoded"):
        score(rows, masks)
    save_mask(masks / "a_mask.gif", np.ones((2, 3), np.uint8))
    with pytest.raises(DataError, match=r"'a' has the mask a_mask\.gif too"):
        score(rows, masks)


def test_the_command_prints_json_alone_and_warns_beside_it(tmp_path: Path) -> None:
    truth = write_csv(tmp_path / "truth.csv", "a.jpg,1 4", *(f"{name}.jpg,1 1" for name in "bcde"))
    rows = write_csv(tmp_path / "rows.csv", "a.jpg,3 4", "z.jpg,")
    app = typer.Typer()
    app.command()(score_command)
    done = CliRunner().invoke(app, [str(rows), "--truth", str(truth), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "dice_mean_per_image": 0.5,  # 1-4 against 3-6: 2 * 2 / (4 + 4)
        "images": 1,
        "missing": ["b.jpg", "c.jpg", "d.jpg", "e.jpg"],
        "extra": ["z.jpg"],
    }
    assert done.stderr.splitlines() == [
        "warning: images without a row, left out of the mean: 4 (b.jpg, c.jpg, d.jpg, ...)",
        "warning: rows of images not in the truth, left out of the mean: 1 (z.jpg)",
    ]


def test_rows_by_the_names_of_classes_against_masks_of_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> object:
        given = ["distseg", "score", str(rows), "--truth", str(tmp_path / "masks"), "--row-id", "{stem}_{class}"]
        monkeypatch.setattr(sys, "argv", [*given, *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    save_mask(tmp_path / "masks" / "a.png", np.array([[0, 1, 1, 2, 2, 2]], np.uint8))
    rows = write_csv(tmp_path / "rows.csv", "a_car,4 2", "a_road,2 2")
    assert run("--classes", "sky,road,car", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    # car: 4 and 5 of 4 to 6: 2 * 2 / (2 + 3); road: both
    assert found == {"dice_mean_per_image": pytest.approx((0.8 + 1) / 2), "images": 2, "missing": [], "extra": []}
    assert run("--classes", "sky,road,car", "--labels", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dice_mean_per_image"] == pytest.approx(0.8)
    assert run("--labels", "1,2") == 2
    assert "--row-id {stem}_{class}: the masks of" in (said := capsys.readouterr().err)
    assert "give --classes A,B,.. too" in said
    assert run("--classes", "car") == 2
    assert "--classes car: want two names or more" in capsys.readouterr().err
