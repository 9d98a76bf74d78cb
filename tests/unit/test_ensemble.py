"""The flow of a K-fold ensemble at a small scale, and what ``evaluate`` says and draws of it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TINY

from distseg.cli import main as cli
from distseg.config import with_overrides
from distseg.data.manifest import ShardFolder
from distseg.errors import InputError
from distseg.export.build import export
from distseg.predict.decode import Decoders
from distseg.predict.evaluate import Evaluator, Part, evaluate, seen_in_training
from distseg.predict.pipeline import Pipeline
from distseg.predict.row_format import RowFormat
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.predict.submission import EncodeRows, write_submission
from distseg.train.loop import run
from distseg.train.run_folder import RunSpec
from distseg.train.worker import LocalWorker


@pytest.fixture(scope="module")
def folds(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """An exported file for each of two folds."""
    root = tmp_path_factory.mktemp("folds")
    for fold in range(2):
        changes = {"data.fold": fold, "train.epochs": 1, "optim.lr": 0.02}
        spec = RunSpec(
            with_overrides(TINY, changes), str(shards), root / f"fold-{fold}", f"fold-{fold}", overrides=changes
        )
        run(spec, LocalWorker(0, 1, torch.device("cpu")))
        export(spec.folder, root / f"fold-{fold}.ts")
    return tuple(root / f"fold-{fold}.ts" for fold in range(2))


def test_folds_become_one_submission_and_one_score(folds: tuple[Path, ...], shards: Path, tmp_path: Path) -> None:
    recipe = Recipe(models=folds, device="cpu")
    segmenter = Segmenter.open(recipe)
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    encode = Pipeline(segmenter, EncodeRows(RowFormat()), Decoders(0))
    assert write_submission(encode, paths, tmp_path / "out.csv") == 3
    images = torch.from_numpy(np.stack([np.asarray(Image.open(path)) for path in paths])).permute(0, 3, 1, 2)
    each = [Segmenter.open(Recipe(models=(path,), device="cpu")).probabilities(images) for path in folds]
    torch.testing.assert_close(segmenter.probabilities(images), torch.stack(each).mean(0))
    assert not torch.equal(each[0], each[1])

    data = ShardFolder.open(shards)
    found = evaluate(recipe, data, "val")
    assert (found["samples"], found["resolution"]) == (4, (32, 32))
    # by hand: the mean of the probabilities of the four samples, thresholded
    evaluator = Evaluator(recipe, shards, "val")
    dices = []
    for place in range(4):
        sample = evaluator._reader.read(place)
        assert sample.mask is not None
        image = torch.from_numpy(sample.image)[None].permute(0, 3, 1, 2)
        mean = torch.stack(
            [Segmenter.open(Recipe(models=(p,), device="cpu")).probabilities(image) for p in folds]
        ).mean(0)
        guess, truth = mean[0, 0].numpy() > 0.5, sample.mask == 1
        dices.append(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))
    assert found["metrics"]["dice_mean_per_image"] == pytest.approx(np.mean(dices), abs=1e-6)
    assert [dice for dice, _ in evaluator(Part(0, 1)).dices] == pytest.approx(dices, abs=1e-6)


def test_parts_add_up_to_the_whole(folds: tuple[Path, ...], shards: Path) -> None:
    recipe, data = Recipe(models=folds[:1], tta=True, device="cpu"), ShardFolder.open(shards)
    whole, parts = evaluate(recipe, data, "train"), evaluate(recipe, data, "train", parts=3)
    many = evaluate(recipe, data, "train", parts=50)  # more than there are samples
    assert whole["samples"] == parts["samples"] == many["samples"] == 8
    for name, value in whole["metrics"].items():
        assert parts["metrics"][name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value)
    assert evaluate(recipe.model_copy(update={"tta": False}), data, "train")["metrics"] != whole["metrics"]


def test_files_that_saw_the_split(folds: tuple[Path, ...]) -> None:
    recipe = Recipe(models=folds)
    assert seen_in_training(recipe, "val") == list(folds)  # a fold spans train and val
    assert seen_in_training(recipe, "test") == []


def test_the_command_measures_an_ensemble_and_draws_a_panel(
    folds: tuple[Path, ...],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["distseg", "evaluate", *folds, "--data", shards, "--tta", "--panel", tmp_path / "panel.png", "--json"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["samples"] == 4
    assert "note: the training of fold-0.ts saw samples of 'val'; its figure is too good" in printed.err
    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.size == (4 * (32 + 4), 3 * (18 + 32 + 4))  # four cells, three rows with a title and a gap


def test_the_panel_shows_best_median_and_worst(
    folds: tuple[Path, ...], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(Recipe(models=folds[:1], device="cpu"), shards, "train")
    keys = [evaluator._reader.place(place)[1].key for place in range(5)]
    titles: list[str] = []
    monkeypatch.setattr("distseg.predict.evaluate.titled", lambda row, title: titles.append(title) or row)
    evaluator.panel(list(zip((0.5, 0.9, 0.1, 0.7, 0.3), keys, strict=True)))
    assert [title.split("   ")[0] for title in titles] == [
        f"best: {keys[1]}  Dice 0.9000",
        f"median: {keys[0]}  Dice 0.5000",
        f"worst: {keys[2]}  Dice 0.1000",
    ]


def test_models_of_other_classes_are_refused(folds: tuple[Path, ...], shards: Path, tmp_path: Path) -> None:
    from models import ColourIsClass, exported

    other = exported(ColourIsClass(), tmp_path / "other.ts", ("a", "b", "c"))
    with pytest.raises(InputError, match="an ensemble is of models of the same classes"):
        evaluate(Recipe(models=(folds[0], other)), ShardFolder.open(shards), "val")
