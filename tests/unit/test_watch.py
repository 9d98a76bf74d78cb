"""What a person who watches a run sees: progress.json, TensorBoard, pictures, and lines or a bar on stderr."""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from runs import EPOCHS, STEPS, final, spec_of, worker
from torch import nn

from distseg import checkpoint
from distseg.cli.follow import Follow
from distseg.data.manifest import ShardFolder
from distseg.data.stream import Batch, open_split
from distseg.models.build import build_model
from distseg.records import Progress
from distseg.tasks.drawing import palette, write_png
from distseg.tasks.predictor import Predictor
from distseg.train import loop, watch
from distseg.train.extremes import Extremes
from distseg.train.loop import run
from distseg.train.panels import panel
from distseg.train.run_folder import RunSpec
from distseg.train.telemetry import GpuMeter, GpuReading
from distseg.train.watch import Watch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def watched(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A run that told its progress after every step, and drew a panel after every epoch."""
    spec = spec_of(tmp_path_factory.mktemp("runs") / "watched", shards, {"eval.panels_every_epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "_EVERY_S", 0.0)
        run(spec, worker())
    return spec


# progress.json


def test_progress_of_a_run_on_a_cpu(watched: RunSpec) -> None:
    progress = Progress.load(watched.folder)
    assert progress is not None
    assert (progress.step, progress.steps, progress.epoch, progress.epochs) == (EPOCHS * STEPS, 9, 3, 3)
    assert 0 < progress.loss < 10
    assert progress.images_per_s > 0
    assert progress.seconds_left == 0
    assert (progress.gpu_utilisation, progress.gpu_memory_bytes, progress.gpu_power_w) == (None, None, None)


class FakeMeter(GpuMeter):
    """A GPU at work."""

    def __init__(self) -> None:
        super().__init__(CPU)

    def read(self) -> GpuReading:
        return GpuReading(utilisation=0.5, memory_bytes=3 * 2**30, power_w=300.0)


def told(folder: Path, rank: int, monkeypatch: pytest.MonkeyPatch, meter: GpuMeter) -> list[Progress | None]:
    """Progress after steps 1, 2 and 4 of a run of 9, half a second and two seconds later."""
    clock = iter([100.0, 100.5, 101.0, 102.5])
    monkeypatch.setattr(watch.time, "monotonic", lambda: next(clock))
    seen = []
    watching = Watch(spec_of(folder, folder), STEPS, EPOCHS * STEPS, meter, rank)
    for step, losses in ((1, (2.0, 2.0)), (2, (4.0, 4.0)), (4, (6.0, 4.0))):
        state: Any = SimpleNamespace(step=step, stopped_early=False, gpu_memory_used_bytes=0)
        watching.step(state, torch.tensor(losses, dtype=torch.float64))
        seen.append(Progress.load(folder))
    monkeypatch.undo()
    return seen


def test_progress_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = told(tmp_path, 0, monkeypatch, FakeMeter())
    assert first is not None
    assert (first.step, first.epoch, first.loss, first.images_per_s, first.seconds_left) == (1, 1, 1.0, 0.0, None)
    assert second == first  # half a second later: once a second is enough
    assert third is not None
    # three steps of three images in two seconds; five more steps at 1.5 a second
    assert (third.step, third.epoch, third.loss, third.images_per_s) == (4, 2, 1.5, 4.5)
    assert third.seconds_left == pytest.approx(5 / 1.5)
    assert (third.gpu_utilisation, third.gpu_memory_bytes, third.gpu_power_w) == (0.5, 3 * 2**30, 300.0)


def test_only_rank_0_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(tmp_path, 1, monkeypatch, GpuMeter(CPU)) == [None] * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", '{"step": 1}'])
def test_progress_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(text)
    assert Progress.load(tmp_path) is None


def test_the_record_has_the_memory_that_all_use(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells whether trials that share a GPU fit on it."""
    monkeypatch.setattr(loop, "GpuMeter", lambda device: FakeMeter())
    assert run(spec_of(tmp_path / "run", shards, {"train.epochs": 1}), worker()).gpu_memory_used_bytes == 3 * 2**30


def test_a_cpu_has_no_meter() -> None:
    meter = GpuMeter(CPU)
    assert meter.read() is None
    assert meter.energy_wh() == 0


# TensorBoard


def test_tensorboard_has_the_scalars_and_pictures_of_every_epoch(watched: RunSpec) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(watched.folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    history = final(watched)["history"]
    names = {name for name, value in history[0]["metrics"].items() if isinstance(value, float)}
    assert {"dice_mean_per_image", "iou_dataset", "boundary_iou", "precision"} <= names
    assert set(events.Tags()["scalars"]) == names | {"loss", "lr", "images_per_s"}
    for name in ("loss", "lr"):
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (row["epoch"], pytest.approx(row[name])) for row in history
        ]
    assert [event.value for event in events.Scalars("dice_mean_per_image")] == [
        pytest.approx(row["score"]) for row in history
    ]
    images = events.Images("validation")
    assert [(image.step, image.width, image.height) for image in images] == [(epoch, 144, 144) for epoch in (1, 2, 3)]


# Pictures


def test_a_run_leaves_its_panels(watched: RunSpec) -> None:
    paths = sorted((watched.folder / "panels").glob("epoch-*"))
    assert [path.name for path in paths] == ["epoch-0001.png", "epoch-0002.png", "epoch-0003.png"]
    for path in paths:
        # four samples of 32x32, four cells each, and four pixels between them
        assert cv2.imread(str(path)).shape == (4 * (32 + 4), 4 * (32 + 4), 3)


def test_a_run_leaves_the_best_median_and_worst_images_of_its_best_epoch(watched: RunSpec, shards: Path) -> None:
    cfg, told = watched.config, json.loads((watched.folder / "panels/best_median_worst.json").read_text())
    # the best checkpoint again, image by image
    tree = checkpoint.load(watched.folder / "checkpoints/best.pt")
    folder = ShardFolder.open(shards)
    built = build_model(cfg.model, 1)
    built.network.load_state_dict(tree["network"])
    predict = Predictor(
        built.network, input_size=(32, 32), divisor=built.divisor, mean=tree["mean"], std=tree["std"]
    ).eval()
    reader = open_split(folder, training=False, fold=None)
    dices: dict[str, float] = {}
    for sample in map(reader.read, range(len(reader))):
        assert sample.mask is not None
        with torch.inference_mode():
            found = predict(torch.from_numpy(sample.image).permute(2, 0, 1)[None])[0].numpy() > 0
        truth = sample.mask > 0
        dices[sample.entry.key] = float(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert told["images"] == len(dices) == 4
    rows = {row["which"]: row for row in told["rows"]}
    ranked = sorted(dices.values(), reverse=True)
    assert [rows[which]["dice"] for which in ("best", "median", "worst")] == pytest.approx(
        [ranked[0], ranked[2], ranked[3]]
    )
    assert all(row["dice"] == pytest.approx(dices[row["key"]]) for row in rows.values())
    picture = cv2.imread(str(watched.folder / "panels/best_median_worst.png"))
    assert picture.shape == (3 * (32 + 4), 4 * (32 + 4), 3)


def test_no_extremes_of_no_images(tmp_path: Path) -> None:
    Extremes(2).draw(tmp_path, DARK, None, None, CPU)  # type: ignore[arg-type]
    assert not (tmp_path / "panels").exists()


class Inverted(nn.Module):
    """Object where the image is dark."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 - x[:, :1]


DARK = Predictor(Inverted(), input_size=None, divisor=1, mean=(0.0,) * 3, std=(1.0,) * 3)


def batch_of(images: torch.Tensor, masks: torch.Tensor) -> Batch:
    names = tuple(str(number) for number in range(len(images)))
    return Batch(images, masks, keys=names, groups=names, step=0)


def test_a_panel_by_hand() -> None:
    images = torch.tensor([30, 240, 240, 240], dtype=torch.uint8).expand(1, 3, 1, 4)  # predicted: 1 0 0 0
    masks = torch.tensor([[[1, 0, 1, 255]]], dtype=torch.uint8)
    picture = panel(DARK, [batch_of(images, masks)], 255, CPU)
    assert picture is not None
    assert picture.shape == (1 + 4, 4 * (4 + 4), 3)
    image, truth, prediction, error = (picture[0, first : first + 4].tolist() for first in (0, 8, 16, 24))
    black, red, void = [0, 0, 0], [128, 0, 0], [224, 224, 192]
    assert image == [[30] * 3, [240] * 3, [240] * 3, [240] * 3]
    assert truth == [red, black, red, void]
    assert prediction == [red, black, black, black]
    # right, right, missed, ignored
    assert error == [[10] * 3, [80] * 3, [230, 40, 40], [80] * 3]
    assert (picture[1:] == 0).all()


def test_a_panel_takes_four_samples_and_shrinks_them() -> None:
    def batches() -> Iterator[Batch]:
        yield batch_of(torch.zeros(0, 3, 0, 0, dtype=torch.uint8), torch.zeros(0, 0, 0, dtype=torch.uint8))  # all bad
        yield batch_of(torch.zeros(3, 3, 20, 640, dtype=torch.uint8), torch.zeros(3, 20, 640, dtype=torch.uint8))
        yield batch_of(torch.zeros(3, 3, 10, 16, dtype=torch.uint8), torch.zeros(3, 10, 16, dtype=torch.uint8))
        raise AssertionError("four samples are enough")

    picture = panel(DARK, batches(), None, CPU)
    assert picture is not None
    # three of 320x10 and one of 16x10
    assert picture.shape == (4 * (10 + 4), 4 * (320 + 4), 3)


def test_no_panel_of_no_samples() -> None:
    assert panel(DARK, [], None, CPU) is None


def test_a_validation_that_cannot_be_read_at_all_draws_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distseg.data.stream import ShardReader
    from distseg.errors import BadSampleError

    read = ShardReader.read

    def unreadable(self: ShardReader, position: int) -> Any:
        if self.place(position)[0].split == "val":
            raise BadSampleError("gone")
        return read(self, position)

    monkeypatch.setattr(ShardReader, "read", unreadable)
    spec = spec_of(tmp_path / "run", shards, {"data.bad_fraction_max": 1.0, "train.epochs": 1})
    record = run(spec, worker())
    assert (record.bad_samples, record.best_epoch, record.samples) == (4, None, 0)
    assert not (spec.folder / "panels").exists()


def test_a_picture_keeps_its_colours(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_png(picture, tmp_path / "a/picture.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a/picture.png"))[:, :, ::-1], picture)


def test_labels_have_colours_of_their_own() -> None:
    colours = palette()
    assert colours[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]  # PASCAL VOC's
    assert len({tuple(colour) for colour in colours.tolist()}) == 256


# On stderr


def row(epoch: int, score: float | None) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 0.25, "score": score, "images_per_s": 12.34, "seconds": 61.2}


def write_rows(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "epochs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))


LINES = [
    "epoch 2/3  loss 0.2500  12.3 images/s  61 s, 31 s left",
    "epoch 3/3  loss 0.2500  miou 0.7500  12.3 images/s  61 s",
]


def write_progress_on_a_gpu(folder: Path) -> None:
    progress = Progress(
        step=5, steps=9, epoch=2, epochs=3, loss=0.125, images_per_s=34.5, seconds_left=1.0,
        gpu_utilisation=0.87, gpu_memory_bytes=3 * 2**30, gpu_power_w=301.4,
    )  # fmt: skip
    (folder / "progress.json").write_text(progress.model_dump_json())


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path, row(1, 0.5))  # of before a resume: not told again
    with Follow(tmp_path, 3, "miou"):
        write_rows(tmp_path, row(1, 0.5), row(2, None), row(3, 0.75))
    captured = capsys.readouterr()
    assert captured.err.splitlines() == LINES
    assert captured.out == ""


def test_plain_lines_tell_of_the_gpu_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_progress_on_a_gpu(tmp_path)
    with Follow(tmp_path, 3, "miou"):
        write_rows(tmp_path, row(3, 0.75))
    assert capsys.readouterr().err.splitlines() == [LINES[1] + "  GPU 87%  3.0 GiB  301 W"]


def test_lines_appear_while_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Follow(tmp_path, 3, "miou"):
        assert capsys.readouterr().err == ""
        write_rows(tmp_path, row(2, None))
        deadline = time.monotonic() + 10
        while not (text := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert text.splitlines() == LINES[:1]
        write_rows(tmp_path, row(2, None), row(3, 0.75))
    assert capsys.readouterr().err.splitlines() == LINES[1:]


def read_to_end(terminal: int) -> str:
    """All that is written to the other end of a pseudo terminal until it is closed."""
    parts = []
    with suppress(OSError):  # EIO: closed
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    return b"".join(parts).decode()


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_progress_on_a_gpu(tmp_path)
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    with open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with ThreadPoolExecutor(1) as pool:  # a terminal holds 4 KiB that nobody has read
            reading = pool.submit(read_to_end, ours)
            with Follow(tmp_path, 3, "miou"):
                write_rows(tmp_path, row(2, None), row(3, 0.75))
            monkeypatch.undo()
            terminal.close()
            text = reading.result(timeout=10)
    os.close(ours)
    assert "\x1b[" in text  # it moves
    assert "━" in text
    assert "epoch 2/3" in text
    for words in ("5/9", "34.5 images/s", "loss 0.1250", "GPU 87%", "3.0 GiB", "301 W"):
        assert words in text, words
    assert "miou" in text


def test_a_bar_says_nothing_of_a_gpu_that_is_not_there() -> None:
    from distseg.cli.follow import _rest

    progress = Progress(
        step=5, steps=9, epoch=2, epochs=3, loss=0.125, images_per_s=34.5, seconds_left=1.0,
        gpu_utilisation=None, gpu_memory_bytes=None, gpu_power_w=None,
    )  # fmt: skip
    assert _rest(progress) == "34.5 images/s  loss 0.1250"
