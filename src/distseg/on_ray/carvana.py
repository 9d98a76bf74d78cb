"""The main job: raw Carvana photographs to a leaderboard, an exported winner and a scored submission."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg import atomic
from distseg.data import rle
from distseg.data.cache import ShardCache
from distseg.data.layouts import read_corpus
from distseg.data.layouts.base import Corpus
from distseg.data.manifest import ShardFolder
from distseg.data.stream import open_split
from distseg.export.build import export
from distseg.export.torchscript import load
from distseg.home import Home
from distseg.leaderboard.choose import trial_folder
from distseg.leaderboard.rank import rank
from distseg.leaderboard.render import board
from distseg.leaderboard.store import records
from distseg.on_ray.packed import input_size, packed_once
from distseg.on_ray.session import session
from distseg.predict.rle_csv import HEADER, row_bytes
from distseg.predict.score import SubmissionScore, score
from distseg.predict.submission import write_submission
from distseg.search.progress import ProgressLines
from distseg.search.study import Study, open_study

Write = Callable[[str], None]


@dataclass(frozen=True)
class SearchJob:
    """What a person asks of the job."""

    home: Home
    search_file: Path
    overrides: Sequence[str]
    raw: Path | None
    """Kaggle's folder; packed at the base config's ``data.input_size``."""
    data: str | None
    """Or a folder of shards that are packed already, or its URL."""
    study: str | None
    resume: bool
    trials: int | None
    workers_per_trial: int | None


def tune_carvana(job: SearchJob, write: Write) -> Path:
    """Packs, searches, ranks, exports and scores; returns the study's folder, where everything lies.

    With ``raw`` the winner also writes ``submission.csv`` for the validation cars at original size, and its score.
    """
    raw = None if job.raw is None else read_corpus("carvana", job.raw)
    shards: str | Path | None = job.data if raw is None else _packed(job, raw, write)
    assert shards is not None  # the command line takes exactly one of the two
    study = open_study(
        job.home,
        job.search_file,
        job.overrides,
        shards,
        name=job.study,
        resume=job.resume,
        trials=job.trials,
        workers_per_trial=job.workers_per_trial,
    )
    write(f"study {study.info.name}: {study.info.trials_planned} trials on {shards}")
    cache = ShardCache.of(job.home)
    with session():
        from distseg.on_ray.tune import search

        search(study, ProgressLines(study, write), cache)
    write(_board(study))
    best = study.folder / "best.ts"
    manifest = export(trial_folder(study.folder), best, cache)
    write(f"exported trial {manifest.trial}: {best}")
    write(f"  {manifest.metric} {manifest.metrics[manifest.metric]:.4f} on {manifest.samples} images, from the file")
    if raw is not None:
        result = _submit(study, raw, best)
        write(f"submission of {result.images} validation images: {study.folder / 'submission.csv'}")
        write(f"  mean Dice per image at original size: {result.dice_mean_per_image:.4f}")
    return study.folder


def _packed(job: SearchJob, raw: Corpus, write: Write) -> Path:
    """Shards of the raw folder, packed before anything else."""
    assert job.raw is not None
    masks = {job.raw / "train_masks.csv", *(job.raw / "train_masks").glob("*")}
    files = {sample.image for sample in raw.samples} | masks
    return packed_once(job.home, raw, job.raw, files, input_size(job.search_file, job.overrides), write)


def _board(study: Study) -> str:
    """The leaderboard as plain lines."""
    metric, mode = study.info.metric, study.info.mode
    rows = rank(records(study.folder), metric, mode, study.folder)
    return board(study.info, rows, metric, mode, width=None).plain


def _submit(study: Study, raw: Corpus, model: Path) -> SubmissionScore:
    """``submission.csv``, ``truth.csv`` and ``score.json`` of the cars that training never saw, at original size."""
    shards = ShardFolder.open(study.info.data)
    reader = open_split(shards, training=False, fold=study.base.data.fold)
    unseen = {reader.place(position)[1].key for position in range(len(reader))}
    samples = [sample for sample in raw.samples if sample.key in unseen]
    submission, truth = study.folder / "submission.csv", study.folder / "truth.csv"
    write_submission(load(model).module, [sample.image for sample in samples], submission)
    with atomic.replacing(truth) as file:
        file.write(row_bytes(*HEADER))
        for sample in samples:
            assert sample.mask is not None  # the carvana layout has label maps
            file.write(row_bytes(sample.image.name, rle.encode(sample.mask.read())))
    result = score(submission, truth)
    atomic.write_text(study.folder / "score.json", json.dumps(result.model_dump(mode="json"), indent=1) + "\n")
    return result
