"""Augmentation policies compared: each trained from every seed with one budget, as a study of fixed points."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from distseg import atomic, config, records
from distseg.augment.policies import POLICIES
from distseg.config import Dimension
from distseg.data.cache import ShardCache
from distseg.data.layouts import guess_layout, read_corpus
from distseg.data.manifest import ShardFolder
from distseg.errors import ConfigError, InputError
from distseg.home import Home
from distseg.leaderboard.store import records as trial_records
from distseg.on_ray.packed import input_size, packed_once
from distseg.on_ray.session import session
from distseg.predict.evaluate import score_run
from distseg.records import TRIALS_FOLDER, Status
from distseg.search.comparison import SEED, Comparison, Repeat, compare, repeats
from distseg.search.comparison_chart import bar_chart
from distseg.search.comparison_table import markdown
from distseg.search.opening import Opening, check_unopened, openings
from distseg.search.progress import ProgressLines
from distseg.search.space import grid
from distseg.search.start import StudyRequest, open_study
from distseg.search.study import Study

POLICY = "augment.policy"
BASELINE = "none"

Write = Callable[[str], None]


@dataclass(frozen=True)
class CompareJob:
    """What a person asks of the job."""

    home: Home
    search_file: Path
    overrides: Sequence[str]
    raw: Path | None
    """A raw folder; packed at the base config's ``data.input_size`` and the fractions."""
    data: str | None
    """Or a folder of shards that are packed already, or its URL."""
    val_fraction: float
    test_fraction: float
    policies: tuple[str, ...] | None
    """None: those of the search file."""
    seeds: int | None
    """How many, from the base config's on; None: those of the search file."""
    study: str | None
    resume: bool
    open_test: bool
    open_test_again: bool


def compare_augmentations(job: CompareJob, write: Write) -> Path:
    """Trains, and leaves ``comparison.json``, ``.md`` and ``.png`` in the study's folder, which is returned.

    With ``open_test`` the best checkpoint of every training is measured on the test groups too, once all have ended.
    InputError, before anything is trained, when these groups were opened before.
    """
    assignments = [*job.overrides, *_points(job)]
    data = job.data if job.raw is None else _packed(job, write)
    assert data is not None  # the command line takes exactly one of the two
    cache = ShardCache.of(job.home)
    shards = ShardFolder.open(data, cache)
    opening = job.open_test or job.open_test_again
    if opening and not shards.manifest.samples["test"]:
        raise InputError(f"--open-test: {shards.root} has no test groups; pack again with --test-fraction")
    if opening and not job.open_test_again:
        check_unopened(job.home, shards.manifest.split_digest)
    request = StudyRequest(name=job.study, resume=job.resume)
    study, _ = open_study(job.home, job.search_file, assignments, data, request)
    write(f"study {study.info.name}: {study.info.trials_planned} trainings on {data}")
    ended = [record for record in trial_records(study.folder) if record.status.finished]
    if len(ended) < study.info.trials_planned:
        with session():
            from distseg.on_ray.tune import search

            progress = ProgressLines(study, write)
            search(study, progress, progress.say, cache)
    if opening:
        _open_test(job.home, study, shards, write)
    _report(study, write)
    return study.folder


def _points(job: CompareJob) -> list[str]:
    """Overrides that make the search file a list of fixed points: every seed with every policy, no scheduler."""
    search, base = config.load_search(job.search_file, job.overrides)
    if {*search.space} != {SEED, POLICY}:
        raise ConfigError(f"{job.search_file}: space: got {', '.join(search.space)}; want {SEED} and {POLICY} alone")
    seeds = search.space[SEED].values if job.seeds is None else tuple(base.seed + n for n in range(job.seeds))
    policies = search.space[POLICY].values if job.policies is None else job.policies
    for policy in policies or ():
        if policy not in POLICIES:
            raise ConfigError(f"{POLICY}: got '{policy}', want some of {', '.join(POLICIES)}")
    space = {SEED: Dimension(kind="choice", values=seeds), POLICY: Dimension(kind="choice", values=policies)}
    first, *others = grid(space)  # seed by seed: a comparison that is cut short has whole seeds
    fixed = {path: dimension.model_dump(mode="json", exclude_none=True) for path, dimension in space.items()}
    return config.as_assignments(
        first  # the base config is the first trial of any study
        | {
            "study.space": fixed,
            "study.points": others,
            "study.budget.trials": 1 + len(others),
            "study.search.scheduler": "none",
        }
    )


def _packed(job: CompareJob, write: Write) -> Path:
    assert job.raw is not None
    raw = read_corpus(guess_layout(job.raw), job.raw)
    return packed_once(
        job.home,
        raw,
        job.raw,
        job.raw.rglob("*"),
        input_size(job.search_file, job.overrides),
        write,
        val_fraction=job.val_fraction,
        test_fraction=job.test_fraction,
    )


def _open_test(home: Home, study: Study, shards: ShardFolder, write: Write) -> None:
    """Measures every completed training on the test groups and records that they were opened."""
    trials = trial_records(study.folder)
    if going := [record.trial_id for record in trials if not record.status.finished]:
        raise InputError(
            f"--open-test: trials {', '.join(going)} of study '{study.info.name}' have not ended; "
            f"go on with --study {study.info.name} --resume --open-test"
        )
    digest = shards.manifest.split_digest
    before = tuple(openings(home, digest))
    scores = {}
    for record in trials:
        if record.status is Status.COMPLETED:
            write(f"test groups: trial {record.trial_id}")
            scores[record.trial_id] = score_run(study.trial_folder(record.trial_id), shards, "test")
    Opening(split_digest=digest, opened_at=records.now(), opened_before=before, scores=scores).save(study.folder)


def _report(study: Study, write: Write) -> None:
    """The study's tables and pictures, from its records alone."""
    metric, mode = study.info.metric, study.info.mode
    found, unusable = repeats(trial_records(study.folder), study.folder / TRIALS_FOLDER, POLICY, metric)
    table_of = partial(compare, metric=metric, mode=mode, baseline=BASELINE, unusable=unusable)
    tables = {"val": table_of(found, split="val")}
    opening = Opening.load(study.folder)
    if opening is not None:
        tables["test"] = table_of(_on_test(found, opening), split="test")
    text = "\n".join(markdown(table) for table in tables.values())
    if opening is not None:
        text += f"\n{_told(opening)}\n"
    document = {
        "study": study.info.name,
        "data_digest": study.info.data_digest,
        "split_digest": study.info.split_digest,
        **{split: table.model_dump(mode="json") for split, table in tables.items()},
        "test_opened_at": opening and opening.opened_at,
        "test_opened_before": opening and opening.opened_before,
    }
    atomic.write_text(study.folder / "comparison.json", json.dumps(document, indent=1) + "\n")
    atomic.write_text(study.folder / "comparison.md", text)
    for split, table in tables.items():
        _draw(table, study, study.folder / ("comparison.png" if split == "val" else "comparison-test.png"))
    write(text)


def _on_test(found: Sequence[Repeat], opening: Opening) -> list[Repeat]:
    """The same trainings with the figures of the test groups."""
    return [
        replace(repeat, metrics=score.metrics, groups=score.groups)
        for repeat in found
        if (score := opening.scores.get(repeat.trial_id)) is not None
    ]


def _told(opening: Opening) -> str:
    if not opening.opened_before:
        return f"The test groups were opened at {opening.opened_at}, for the first time in this home."
    before = ", ".join(opening.opened_before)
    return (
        f"The test groups were opened at {opening.opened_at}, AGAIN: before by {before}. "
        "What was changed since then may have been chosen on them."
    )


def _draw(table: Comparison, study: Study, path: Path) -> None:
    if not table.rows:
        return
    where = {"val": "validation groups", "test": "test groups"}[table.split]
    with atomic.replacing(path) as file:
        bar_chart(table, f"{study.info.name}: {where}").save(file, "png")
