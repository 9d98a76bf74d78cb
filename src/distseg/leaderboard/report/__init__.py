"""A study as one self-contained HTML file, drawn with plotly."""

from importlib.util import find_spec
from pathlib import Path

from distseg import atomic
from distseg.errors import InputError
from distseg.leaderboard.report.gather import gather


def write_report(study_folder: Path, out: Path) -> None:
    """Writes the report of a study, as it is now, to ``out`` (atomically; one that exists is replaced).

    HomeError when the folder is no study; InputError when ``out`` is a folder or plotly is not installed.
    """
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the path of a file, such as {out / 'report.html'}")
    if find_spec("plotly") is None:
        raise InputError("report: plotly is not installed; install it with: pip install 'distseg[report]'")
    from distseg.leaderboard.report.page import page

    atomic.write_text(out, page(gather(study_folder)))
