"""The main job: raw Carvana photographs to a leaderboard, an exported winner and a scored submission."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg import atomic, config
from distseg.data import rle
from distseg.data.cache import ShardCache
from distseg.data.layouts import read_corpus
from distseg.data.layouts.base import Corpus
from distseg.data.manifest import MANIFEST_FILE, ShardFolder
from distseg.data.pack import pack
from distseg.data.stream import open_split
from distseg.errors import ConfigError
from distseg.export.build import export
from distseg.home import Home
from distseg.leaderboard.choose import trial_folder
from distseg.leaderboard.rank import rank
from distseg.leaderboard.render import board
from distseg.leaderboard.store import records
from distseg.on_ray.session import session
from distseg.predict.decode import Decoders
from distseg.predict.pipeline import Pipeline
from distseg.predict.row_format import HEADER, RowFormat, row_bytes
from distseg.predict.score import SubmissionScore, score
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.predict.submission import EncodeRows, identity_of, write_submission
from distseg.search.progress import ProgressLines
from distseg.search.study import Study, open_study

Write = Callable[[str], None]
_DECODERS = 2


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
    """Shards of the raw folder; those of an earlier job where neither the photographs nor the size have changed."""
    assert job.raw is not None
    _, base = config.load_search(job.search_file, job.overrides)
    size = base.data.input_size
    if size is None:
        raise ConfigError(
            f"{job.search_file}: data.input_size is missing in its base config; the raw data is packed at it"
        )
    shards = job.home.root / "shards" / f"carvana-{size[0]}x{size[1]}-{_fingerprint(job.raw, raw)}"
    if not (shards / MANIFEST_FILE).exists():
        write(f"packing {len(raw.samples)} photographs at {size[0]}x{size[1]}: {shards}")
        pack(raw, shards, size=size)
    return shards


def _fingerprint(folder: Path, raw: Corpus) -> str:
    """Short digest of the names, sizes and times of change of the photographs and of all masks."""
    images = {sample.image for sample in raw.samples}
    masks = {folder / "train_masks.csv", *(folder / "train_masks").glob("*")}
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(path for path in images | masks if path.is_file()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:8]


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
    recipe = Recipe(models=(model,))
    with Decoders(_DECODERS) as decoders:
        encode = Pipeline(Segmenter.open(recipe), EncodeRows(RowFormat()), decoders)
        images = [sample.image for sample in samples]
        write_submission(encode, images, submission, identity=identity_of(recipe, RowFormat()))
    with atomic.replacing(truth) as file:
        file.write(row_bytes(*HEADER))
        for sample in samples:
            assert sample.mask is not None  # the carvana layout has label maps
            file.write(row_bytes(sample.image.name, rle.encode(sample.mask.read())))
    result = score(submission, truth)
    atomic.write_text(study.folder / "score.json", json.dumps(result.model_dump(mode="json"), indent=1) + "\n")
    return result
