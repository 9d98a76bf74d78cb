"""``distseg leaderboard``: the trials of one or more studies, best first."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from distseg.records import LeaderboardRow, StudyInfo


def leaderboard(
    studies: Annotated[list[str] | None, typer.Argument(metavar="[STUDY]...", help="Default: the newest.")] = None,
    sort: Annotated[str | None, typer.Option(metavar="METRIC", help="Default: the metric of the search.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")] = False,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Shows the trials of a study, best first.

    Example: distseg leaderboard --sort iou_dataset
    """
    from rich.console import Console

    from distseg.cli.console import print_json
    from distseg.errors import HomeError
    from distseg.home import Home
    from distseg.leaderboard.render import render, to_json

    folders = Home.from_environment(home)
    names = studies or folders.study_names()[-1:]
    if not names:
        raise HomeError(f"{folders.studies}: no study yet; start one with 'distseg tune SEARCH --data SHARDS'")
    boards = [_board(folders.existing_study(name), sort) for name in names]
    if as_json:
        documents = [to_json(study, metric, mode, rows) for study, rows, metric, mode in boards]
        print_json(documents[0] if len(documents) == 1 else {"studies": documents})
        return
    console = Console()
    for place, (study, rows, metric, mode) in enumerate(boards):
        if place:
            console.print()
        render(console, study, rows, metric, mode)


def _board(folder: "Path", sort: str | None) -> "tuple[StudyInfo, list[LeaderboardRow], str, str]":
    from distseg.leaderboard.rank import rank, sorting
    from distseg.leaderboard.store import records
    from distseg.records import StudyInfo

    study, trials = StudyInfo.load(folder), records(folder)
    metric, mode = sorting(study, trials, sort)
    return study, rank(trials, metric, mode, folder), metric, mode
