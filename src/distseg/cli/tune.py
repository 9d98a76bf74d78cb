"""``distseg tune``: a search on Ray Tune."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distseg.search.events import Event


def tune(
    search: Annotated[Path, typer.Argument(metavar="SEARCH", help="YAML file of a search.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Of the base config; study.KEY=VALUE of the search file."),
    ] = None,
    data: Annotated[str, typer.Option(metavar="SHARDS", help="Folder made by 'distseg data pack', or its URL.")] = ...,  # type: ignore[assignment]
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Default: made from SEARCH and the time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the study of this name.")] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all; default: the file's.")] = None,
    workers_per_trial: Annotated[int | None, typer.Option(min=1, help="DDP workers of each trial.")] = None,
    random: Annotated[bool, typer.Option("--random", help="Random search: the baseline at the same budget.")] = False,
    warm_start: Annotated[
        str | None,
        typer.Option(metavar="STUDY", help="Begin with the best trials of an earlier study on the same shards."),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Also write every trial to this MLflow server.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The board as one JSON document on stdout.")] = False,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Search for the best model; the board so far is `distseg leaderboard`.

    Example:

        distseg tune configs/search/smoke.yaml --data shards --study first --trials 4
    """
    from distseg.cli.leaderboard import leaderboard
    from distseg.data.cache import ShardCache
    from distseg.home import Home
    from distseg.on_ray.lease import Lease, job_id_from_environment
    from distseg.search.mlflow import MlflowRuns
    from distseg.search.progress import ProgressLines
    from distseg.search.start import StudyRequest, open_study

    folders = Home.from_environment(home)
    lease = Lease.from_environment()
    request = StudyRequest(study, resume, trials, workers_per_trial, random, warm_start, job_id_from_environment())
    opened, notes = open_study(folders, search, overrides or [], data, request)
    for note in notes:
        typer.echo(note, err=True)
    progress = ProgressLines(opened, lambda line: typer.echo(line, err=True))
    runs = MlflowRuns(opened, mlflow) if mlflow else None

    def follow(event: "Event") -> None:
        progress(event)
        if runs is not None:
            runs(event)

    from distseg.on_ray.session import session

    with session():
        from distseg.on_ray.tune import search as run_search

        try:
            with redirect_stdout(sys.stderr):  # Ray prints there when a process dies
                run_search(opened, follow, progress.say, ShardCache.of(folders), lease)
        except KeyboardInterrupt:
            leaderboard([opened.info.name], as_json=as_json, home=home)
            typer.echo(f"go on with it: the same command with --study {opened.info.name} --resume", err=True)
            raise
    leaderboard([opened.info.name], as_json=as_json, home=home)
