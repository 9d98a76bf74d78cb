"""The main job: raw Carvana photographs to a leaderboard, an exported winner and a scored submission."""

import json
from pathlib import Path

from distseg import atomic
from distseg.data import rle
from distseg.data.layouts.base import Corpus
from distseg.data.manifest import ShardFolder
from distseg.data.stream import open_split
from distseg.on_ray.search_job import SearchJob, Write, run_search
from distseg.predict.decode import Decoders
from distseg.predict.pipeline import Pipeline
from distseg.predict.row_format import HEADER, RowFormat, row_bytes
from distseg.predict.score import SubmissionScore, score
from distseg.predict.segmenter import Recipe, Segmenter
from distseg.predict.submission import EncodeRows, identity_of, write_submission
from distseg.search.study import Study

_DECODERS = 2


def tune_carvana(job: SearchJob, write: Write) -> Path:
    """Packs, searches, ranks, exports and scores; returns the study's folder, where everything lies.

    With ``raw`` the winner also writes ``submission.csv`` for the validation cars at original size, and its score.
    """
    study, raw = run_search(job, write)
    if raw is not None:
        result = _submit(study, raw, study.folder / "best.ts")
        write(f"submission of {result.images} validation images: {study.folder / 'submission.csv'}")
        write(f"  mean Dice per image at original size: {result.dice_mean_per_image:.4f}")
    return study.folder


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
