"""``distseg report``: a study as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study, running or ended.")],
    out: Annotated[Path, typer.Option(metavar="HTML", help="The file to write; one that exists is replaced.")],
    home: Annotated[str | None, typer.Option(metavar="DIR", help="Default: DISTSEG_HOME, else ~/.distseg.")] = None,
) -> None:
    """Write a study as one HTML file that needs no network: board, charts, pictures, commands.

    Example:

        distseg report first --out report.html
    """
    from distseg.home import Home
    from distseg.leaderboard.report import write_report

    write_report(Home.from_environment(home).existing_study(study), out)
    typer.echo(f"{out}: report of study {study}, {out.stat().st_size / 1e6:.1f} MB")
