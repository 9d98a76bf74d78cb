"""A search as a job of a Ray cluster: raw data or shards to a leaderboard and an exported winner."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distseg.data.cache import ShardCache
from distseg.data.layouts import read_corpus
from distseg.data.layouts.base import Corpus
from distseg.errors import InputError
from distseg.export.build import export
from distseg.home import Home
from distseg.leaderboard.board import read_board
from distseg.leaderboard.choose import trial_folder
from distseg.leaderboard.render import board_text
from distseg.leaderboard.report import write_report
from distseg.on_ray.job import absolute
from distseg.on_ray.lease import UNBOUNDED, Lease, job_id_from_environment
from distseg.on_ray.packed import input_size, packed_once
from distseg.on_ray.session import session
from distseg.search.progress import ProgressLines
from distseg.search.start import ANEW, StudyRequest, open_study
from distseg.search.study import Study

Write = Callable[[str], None]


@dataclass(frozen=True)
class SearchJob:
    """What a person asks of the job."""

    home: Home
    layout: str
    """Of ``raw``."""
    search_file: Path
    overrides: Sequence[str]
    raw: Path | None
    """The raw data; packed at the base config's ``data.input_size``."""
    data: str | None
    """Or a folder of shards that are packed already, or its URL."""
    request: StudyRequest = ANEW
    lease: Lease = UNBOUNDED


def parse_search_job(layout: str, search_file: str, about: str | None, raw: str) -> SearchJob:
    """The job that the words of the command line ask for; InputError when they cannot be.

    ``about`` heads the help; ``raw`` says there what the raw data is.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(search_file), help=f"search file; default: {search_file}")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--raw", type=Path, metavar="DIR", help=f"{raw}; packed first")
    source.add_argument("--data", metavar="SHARDS", help="folder made by 'distseg data pack', or its URL")
    parser.add_argument("--study", metavar="NAME", help="default: made from the config's name and the time")
    parser.add_argument("--resume", action="store_true", help="go on with the study of this name")
    parser.add_argument("--trials", type=int, help="trials in all; default: the search file's")
    parser.add_argument("--workers-per-trial", type=int, metavar="N", help="DDP workers of each trial")
    parser.add_argument("--random", action="store_true", help="random search: the baseline at the same budget")
    parser.add_argument("--warm-start", metavar="STUDY", help="begin with the best trials of an earlier study")
    parser.add_argument("--home", metavar="DIR", help="default: DISTSEG_HOME as the cluster has it, else ~/.distseg")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="base config; study.key: the search")
    args = parser.parse_args()
    absolute({"--raw": args.raw, "--data": args.data, "--home": args.home})
    request = StudyRequest(
        name=args.study,
        resume=args.resume,
        trials=args.trials,
        workers_per_trial=args.workers_per_trial,
        random=args.random,
        warm_start=args.warm_start,
        job_id=job_id_from_environment(),
    )
    return SearchJob(
        home=Home.from_environment(args.home),
        layout=layout,
        search_file=args.config,
        overrides=args.overrides,
        raw=args.raw,
        data=args.data,
        request=request,
        lease=Lease.from_environment(),
    )


def run_search(job: SearchJob, write: Write) -> tuple[Study, Corpus | None]:
    """Packs, searches, ranks, exports ``best.ts`` and writes ``report.html``.

    Returns the study, in whose folder all lies, and the raw data if any was given.
    """
    raw = None if job.raw is None else read_corpus(job.layout, job.raw)
    shards: str | Path | None = job.data if raw is None else _packed(job, raw, write)
    assert shards is not None  # the command line takes exactly one of the two
    study, notes = open_study(job.home, job.search_file, job.overrides, shards, job.request)
    write(f"study {study.info.name}: {study.info.trials_planned} trials on {shards}")
    for note in notes:
        write(note)
    cache = ShardCache.of(job.home)
    with session():
        from distseg.on_ray.tune import search

        progress = ProgressLines(study, write)
        search(study, progress, progress.say, cache, job.lease)
    write(board_text(read_board(study.folder), width=None).plain)
    best = study.folder / "best.ts"
    manifest = export(trial_folder(study.folder), best, cache)
    write(f"exported trial {manifest.trial}: {best}")
    write(f"  {manifest.metric} {manifest.metrics[manifest.metric]:.4f} on {manifest.samples} images, from the file")
    report = study.folder / "report.html"
    try:
        write_report(study.folder, report)
        write(f"report: {report}")
    except InputError as error:  # plotly is an extra
        write(f"no report: {error}")
    return study, raw


def _packed(job: SearchJob, raw: Corpus, write: Write) -> Path:
    """Shards of the raw folder, packed before anything else."""
    assert job.raw is not None
    files = {job.raw, *(sample.image for sample in raw.samples)}
    for masks_and_lists in ("*mask*/*", "*annot/*", "*.*"):
        files |= set(job.raw.glob(masks_and_lists))
    # objects keep their shape: the network scales each image to fit
    size = None if raw.task == "instance" else input_size(job.search_file, job.overrides)
    return packed_once(job.home, raw, job.raw, files, size, write)
