"""What a model says of an image, decided again at other thresholds without asking it."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from page_models import CLASSES, two_colours, write_model
from PIL import Image

from distseg.app.desk import SHOWN_SIDE, Desk
from distseg.app.fragments import findings, heading, sentence
from distseg.app.samples import draw_samples
from distseg.app.upload import Limits
from distseg.data import rle
from distseg.errors import DataError, InputError
from distseg.predict.answer import UNSURE, Answer, Answerer, DenseAnswer, ObjectsAnswer, open_answerer
from distseg.predict.pictures import png
from distseg.predict.row_format import read_rows
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.records import ExportManifest
from distseg.tasks.drawing import label_colours
from distseg.tasks.instance_drawing import class_colour


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {task: write_model(folder / f"{task}.ts", task) for task in CLASSES}


def answer_of(models: dict[str, Path], task: str, image: np.ndarray | None = None) -> Answer:
    answerer = open_answerer(models[task])
    assert answerer.manifest.task == task
    answer, model_ms = answerer.answer(two_colours() if image is None else image)
    assert model_ms > 0
    return answer


def test_a_threshold_decides_each_pixel_as_its_probability_does() -> None:
    """At one half the very decision of the exported file; elsewhere up to a rounding."""
    half = torch.tensor(0.5)
    near = torch.stack([half, half.nextafter(torch.tensor(1.0)), half.nextafter(torch.tensor(0.0))])
    answer = DenseAnswer.of(near.view(1, 1, 3), CLASSES["binary"])
    assert answer.labels(0.5).tolist() == [[0, 1, 0]]
    probabilities = torch.rand(1, 50, 70, generator=torch.Generator().manual_seed(0))
    probabilities[0, 0, :2] = torch.tensor([0.0, 1.0])
    answer = DenseAnswer.of(probabilities, CLASSES["binary"])
    clear = ((100 * probabilities[0]) - (100 * probabilities[0]).round()).abs() > 1e-3
    for percent in range(100):
        wanted = (probabilities[0] > percent / 100).numpy()
        assert (answer.labels(percent / 100) == wanted)[clear.numpy()].all()
        assert answer.labels(percent / 100)[0, :2].tolist() == [0, 1]


def test_binary_is_what_the_file_itself_answers(models: dict[str, Path]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    segmenter = Segmenter.open(Recipe(models=(models["binary"],), device="cpu"))
    wanted = segmenter.labels(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    answer = answer_of(models, "binary", image)
    assert isinstance(answer, DenseAnswer)
    assert np.array_equal(answer.labels(0.5), wanted)


def test_binary_regions_files_and_drawing(models: dict[str, Path], tmp_path: Path) -> None:
    answer = answer_of(models, "binary")  # 40x20: the left half has probability 0.8, the right one 77 / 255 = 0.302
    assert [(each.name, each.share) for each in answer.regions(0.5)] == [("background", 0.5), ("rose", 0.5)]
    assert [each.share for each in answer.regions(0.9)] == [1, 0]
    assert [each.share for each in answer.regions(0.3)] == [0, 1]
    mask = np.asarray(Image.open(io.BytesIO(answer.mask(0.5))))
    assert mask[:, :20].all()
    assert not mask[:, 20:].any()
    (tmp_path / "one.csv").write_text(answer.run_lengths("a,b.png", 0.5))
    [(name, runs)] = read_rows(tmp_path / "one.csv")  # what 'distseg score' reads
    assert name == "a,b.png"
    assert np.array_equal(rle.decode(runs, 20, 40), mask)
    assert runs.startswith("1 20 41 20 ")
    assert answer.run_lengths("a.png", 0.9) == "img,rle_mask\na.png,\n"
    drawn = answer.drawn(two_colours(), 0.5, 0.5)
    red = label_colours(2)[1].astype(int)
    assert np.abs(drawn[10, 10] - (two_colours()[10, 10] + red) / 2).max() <= 1
    assert np.array_equal(drawn[:, 22:], two_colours()[:, 22:])
    assert np.array_equal(answer.drawn(two_colours(), 0.99, 1), two_colours())


def test_multiclass_leaves_unsure_pixels_out(models: dict[str, Path]) -> None:
    answer = answer_of(models, "multiclass")  # left: red 204/255 = 0.8; right: green 178/255 = 0.698
    assert [(each.name, each.share, each.colour is None) for each in answer.regions(0)] == [
        ("red", 0.5, True),  # class 0 is never tinted
        ("green", 0.5, False),
        ("blue", 0, False),
    ]
    assert [each.share for each in answer.regions(0.7)] == [0.5, 0, 0]
    mask = np.asarray(Image.open(io.BytesIO(answer.mask(0.7))))
    assert (mask[:, :20] == 0).all()
    assert (mask[:, 20:] == UNSURE).all()
    rows = list(csv.reader(io.StringIO(answer.run_lengths("x.png", 0))))
    assert [row[:2] for row in rows] == [["img", "class"], ["x.png", "red"], ["x.png", "green"]]
    assert rle.decode(rows[2][2], 20, 40)[:, 20:].all()
    drawn = answer.drawn(two_colours(), 0, 1)
    assert (drawn[10, 30] == label_colours(3)[1]).all()
    assert np.array_equal(drawn[:, :18], two_colours()[:, :18])


def test_objects_by_score(models: dict[str, Path]) -> None:
    answer = answer_of(models, "instance")
    assert isinstance(answer, ObjectsAnswer)
    assert [(each.name, each.share, each.score) for each in answer.regions(0.5)] == [("leaf", 0.5, pytest.approx(0.9))]
    assert [each.name for each in answer.regions(0.3)] == ["leaf", "coin"]
    assert answer.regions(0.95) == []
    mask = np.asarray(Image.open(io.BytesIO(answer.mask(0.3))))
    assert (mask[:, :20] == 1).all()  # the surer one on top
    assert (mask[:5, 20:] == 2).all()
    assert (mask[5:, 20:] == 0).all()
    rows = list(csv.reader(io.StringIO(answer.run_lengths("x.png", 0.3))))
    assert rows[0] == ["img", "class", "score", "rle_mask"]
    assert rows[2] == ["x.png", "coin", "0.4000", "1 200"]
    drawn = answer.drawn(two_colours(400, 200), 0.5, 1) if answer.size == (400, 200) else None
    assert drawn is None
    large = answer_of(models, "instance", two_colours(400, 200))
    drawn = large.drawn(two_colours(400, 200), 0.5, 1)
    assert tuple(drawn[150, 50]) == class_colour(0)
    assert np.array_equal(drawn[60:, 210:], two_colours(400, 200)[60:, 210:])


@pytest.mark.parametrize("task", CLASSES)
def test_a_reduced_answer_is_the_same_answer(task: str, models: dict[str, Path]) -> None:
    whole = answer_of(models, task, two_colours(160, 80))
    small = whole.reduced((40, 20))
    assert small.size == (40, 20)
    assert small.regions(0.5) == whole.regions(0.5)
    assert small.mask(0.5) == answer_of(models, task).mask(0.5)
    assert 0 < small.nbytes < whole.nbytes


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_answerer(tmp_path / "none.ts")
    (tmp_path / "text.ts").write_text("hello")
    with pytest.raises(DataError, match="no TorchScript file"):
        open_answerer(tmp_path / "text.ts")


@dataclass
class Counting:
    """An answerer that counts how often it is asked."""

    inner: Answerer
    manifest: ExportManifest
    device: torch.device
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def answer(self, image: np.ndarray) -> tuple[Answer, float]:
        self.asked.append(image.shape)
        return self.inner.answer(image)


def desk_of(model: Path, **kwargs: int) -> tuple[Desk, Counting]:
    inner = open_answerer(model)
    counting = Counting(inner, inner.manifest, inner.device)
    return Desk(counting, Limits.of(inner.manifest), **kwargs), counting


def test_the_desk_asks_the_model_once_and_hands_out_files(models: dict[str, Path]) -> None:
    desk, counting = desk_of(models["binary"])
    shown = desk.answer(png(two_colours(2560, 1280)), "garden.png", "me", 0.5, 0.5)
    assert counting.asked == [(1280, 2560, 3)]
    picture = cv2.imdecode(np.frombuffer(shown.picture, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture.shape == (SHOWN_SIDE // 2, SHOWN_SIDE, 3)
    assert desk.redraw("me", 0.5, 0.5) is None  # stands so already
    again = desk.redraw("me", 0.9, 0.5)
    assert again is not None
    assert again.picture != shown.picture
    assert [each.share for each in again.regions] == [1, 0]
    back = desk.redraw("me", 0.5, 0.5)
    assert back is not None
    assert back.picture == shown.picture
    assert desk.redraw("you", 0.5, 0.5) is None
    token = shown.kept.token
    mask, overlay, runs = (desk.file(token, what, 0.5, 0.5) for what in ("mask.png", "overlay.png", "run_lengths.csv"))
    assert [each.name for each in (mask, overlay, runs)] == [
        "garden.mask.png",
        "garden.overlay.png",
        "garden.run_lengths.csv",
    ]
    assert Image.open(io.BytesIO(mask.data)).size == (2560, 1280)
    assert Image.open(io.BytesIO(overlay.data)).size == (2560, 1280)
    assert runs.data.startswith(b"img,rle_mask\ngarden.png,1 1280 ")
    assert len(counting.asked) == 1
    for wrong in ((token + "x", "mask.png"), (token, "secrets.txt")):
        with pytest.raises(InputError, match="no longer kept"):
            desk.file(*wrong, 0.5, 0.5)
    desk.drop("me")
    assert desk.redraw("me", 0.9, 0.5) is None
    with pytest.raises(InputError, match="no longer kept"):
        desk.file(token, "mask.png", 0.5, 0.5)


def test_the_desk_keeps_the_last_used_within_its_bytes(models: dict[str, Path]) -> None:
    data = png(two_colours(100, 100))
    each = 100 * 100 * 5 + len(data)  # small picture, percents twice, file
    desk, _ = desk_of(models["binary"], kept_bytes=3 * each)
    for session in "abc":
        desk.answer(data, "x.png", session, 0.5, 0.5)
    assert desk.redraw("a", 0.6, 0.5) is not None
    desk.answer(data, "x.png", "d", 0.5, 0.5)
    for session in "acd":
        assert desk.redraw(session, 0.7, 0.5) is not None
    with pytest.raises(InputError, match="no longer kept"):
        desk.redraw("b", 0.7, 0.5)
    desk.answer(data, "x.png", "d", 0.5, 0.5)  # replaces its own
    assert desk.redraw("a", 0.8, 0.5) is not None
    tight, _ = desk_of(models["binary"], kept_bytes=1)
    tight.answer(data, "x.png", "a", 0.5, 0.5)
    assert tight.redraw("a", 0.6, 0.5) is not None  # the one in hand is always there


def test_a_file_that_is_no_image_within_limits_is_answered_by_a_sentence(models: dict[str, Path]) -> None:
    desk, counting = desk_of(models["binary"])
    small = Desk(counting, Limits(upload_bytes=100_000, pixels=10_000))
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    cut = png(noise)[:5000]
    gif = io.BytesIO()
    Image.fromarray(noise).save(gif, "GIF")
    bomb = bytearray(png(two_colours()))
    bomb[16:24] = (60_000).to_bytes(4) * 2  # what its header declares
    for data, words in {
        b"": "x.png is not an image that this page can read. It takes JPEG, PNG",
        b"#!/bin/sh\n": "is not an image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>": "is not an image",
        gif.getvalue(): "is not an image",
        cut: "is damaged: it cannot be decoded to its end",
        bytes(bomb): "declares far more pixels than it could hold|is not an image",
    }.items():
        with pytest.raises(InputError, match=words):
            desk.answer(data, "x.png", "me", 0.5, 0.5)
    with pytest.raises(InputError, match=r"has 0\.2\d+ MB. This page takes up to 0\.0954 MB"):
        small.answer(png(noise), "x.png", "me", 0.5, 0.5)
    with pytest.raises(InputError, match=r"300 x 100 = 0\.0 million pixels. This page takes up to 0\.0 million"):
        small.answer(png(two_colours(300, 100)), "x.png", "me", 0.5, 0.5)
    assert counting.asked == []


@pytest.mark.parametrize(
    ("classes", "size", "pixels"),
    [(2, (64, 64), 24_000_000), (11, (64, 64), (2 << 30) // 148), (32, (64, 64), (2 << 30) // 400)],
)
def test_more_classes_take_fewer_pixels(classes: int, size: tuple[int, int], pixels: int) -> None:
    manifest = ExportManifest.bare(tuple(map(str, range(classes)))).model_copy(update={"input_size": size})
    assert Limits.of(manifest).pixels == pixels
    seen = manifest.model_copy(update={"task": "instance"})
    assert Limits.of(seen).pixels == (2 << 30) // 128
    assert Limits.of(seen.model_copy(update={"input_size": None})).pixels == (2 << 30) // 640


@pytest.mark.parametrize("task", CLASSES)
def test_fragments_tell_all_and_escape_every_name(task: str, models: dict[str, Path]) -> None:
    answer = open_answerer(models[task])
    manifest = answer.manifest.model_copy(update={"classes": ("<b>", "<i>", "&")[: len(CLASSES[task])]})
    counting = Counting(answer, manifest, answer.device)
    desk = Desk(counting, Limits.of(manifest))
    shown = desk.answer(png(two_colours()), "<x>.png", "me", 0.3, 0.5)
    text = findings(shown, 0.3, 0.5) + heading("<m>.ts", manifest, "cpu") + sentence("<x>.png is no image")
    assert not {"<m>", "<x>"} & set(text.split(">"))
    assert "<x>" not in text
    assert "<m>" not in text
    assert f"kept/{shown.kept.token}/mask.png?threshold=0.30&opacity=0.50" in text
    assert "40 x 20 pixels" in text


@pytest.mark.parametrize("task", CLASSES)
def test_samples_are_drawn_the_same_each_time(task: str) -> None:
    first, again = draw_samples(task), draw_samples(task)
    assert [name for name, _ in first] == [name for name, _ in again]
    for (_, pixels), (_, same) in zip(first, again, strict=True):
        assert pixels.shape == (480, 640, 3)
        assert pixels.dtype == np.uint8
        assert pixels.std() > 20
        assert np.array_equal(pixels, same)
