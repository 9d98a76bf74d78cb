"""``distseg leaderboard``: the trials of one or more studies, best first."""

from typing import Annotated

import typer


def leaderboard(
    studies: Annotated[list[str] | None, typer.Argument(metavar="[STUDY]...", help="Default: the newest.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the study until it ends.")] = False,
    sort: Annotated[str | None, typer.Option(metavar="METRIC", help="Default: the metric of the search.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Only such trials, e.g. completed; may be repeated.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only trials with this setting; repeated: with all of them."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")] = False,
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Shows the trials of a study, best first; several studies together, where they can be compared.

    Example: distseg leaderboard --sort iou_dataset --where augment.policy=flip
    """
    from distseg.cli.console import print_json
    from distseg.errors import HomeError
    from distseg.home import Home
    from distseg.leaderboard.board import BoardReader, read_board
    from distseg.leaderboard.render import render, to_json
    from distseg.leaderboard.select import parse_filters

    filters = parse_filters(status or [], where or [])
    folders = Home.from_environment(home)
    names = list(dict.fromkeys(studies or folders.study_names()[-1:]))
    if not names:
        raise HomeError(f"{folders.studies}: no study yet; start one with 'distseg tune SEARCH --data SHARDS'")
    chosen = [folders.existing_study(name) for name in names]
    reader = BoardReader(chosen, sort)
    board = reader.read()
    if watch:
        from distseg.cli.watch import watch as follow

        board = follow(reader, filters)
    if as_json:
        document = to_json(board, filters)
        if len(chosen) > 1:  # each study's own board beside the one over all of them
            document["studies"] = [to_json(read_board(folder, sort=sort), filters) for folder in chosen]
        print_json(document)
        return
    from rich.console import Console

    render(Console(), board, filters)
