"""The report in a real browser, headless and without a network: charts are drawn, nothing is fetched or refused."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import cv2
import pytest
from studies import searched_study

from distseg.leaderboard.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=10000",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; install it to open the report")

WATCH = """<script>
window.troubles = [];
addEventListener('error', event => troubles.push('error: ' + event.message));
addEventListener('securitypolicyviolation', event => troubles.push('refused: ' + event.blockedURI));
</script>"""
TELL = """<script>
addEventListener('load', () => setTimeout(() => {
  const charts = [...document.querySelectorAll('.js-plotly-plot')];
  const told = {
    troubles,
    fetched: performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !/^data:/.test(name)),
    charts: charts.map(chart => chart.querySelectorAll('.points path, .point path, .js-line').length),
    widths: charts.map(chart => Math.round(chart.getBoundingClientRect().width)),
    pictures: [...document.images].map(image => image.naturalWidth),
    overflow: document.documentElement.scrollWidth - innerWidth,
  };
  document.documentElement.setAttribute('data-told', JSON.stringify(told));
}, 1000));
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(searched_study(folder / "studies/cars"), folder / "report.html")
    return folder / "report.html"


def browse(page: Path, *flags: str) -> str:
    """What Chromium prints; its profile is thrown away."""
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    finally:
        shutil.rmtree(profile, ignore_errors=True)


@pytest.mark.parametrize("width", [1280, 600])
def test_charts_are_drawn_and_nothing_is_fetched(report: Path, width: int) -> None:
    watched = report.with_name(f"watched-{width}.html")
    document = report.read_text()
    watched.write_text(document.replace("<style>", WATCH + "<style>", 1).replace("</body>", TELL + "</body>"))
    dom = browse(watched, "--dump-dom", f"--window-size={width},2000")
    found = re.search(r'data-told="([^"]*)"', dom)
    assert found is not None
    told = json.loads(unescape(found[1]))
    assert told["troubles"] == []
    assert told["fetched"] == []
    assert len(told["charts"]) == 5  # curves, cost, settings, importance, levels
    assert min(told["charts"]) >= 3  # marks: points, bars or lines
    assert all(0.7 * width < drawn <= width for drawn in told["widths"])
    assert told["pictures"] == [144]
    assert told["overflow"] <= 0


def test_the_browser_itself_refuses_what_would_be_fetched(report: Path) -> None:
    leaking = report.with_name("leaking.html")
    image = '<img src="http://127.0.0.1:9/x.png">'
    leaking.write_text(
        report.read_text().replace("<style>", WATCH + "<style>", 1).replace("</body>", image + TELL + "</body>")
    )
    assert "refused: http://127.0.0.1:9/x.png" in unescape(browse(leaking, "--dump-dom"))


@pytest.mark.parametrize(("scheme", "bright"), [("1", True), ("0", False)])  # of Chromium: 0 dark, 1 light
def test_it_is_legible_in_light_and_dark(report: Path, tmp_path: Path, scheme: str, bright: bool) -> None:
    shot = tmp_path / "shot.png"
    browse(report, f"--screenshot={shot}", "--window-size=1000,1600", f"--blink-settings=preferredColorScheme={scheme}")
    grey = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    page, darkest, brightest = int(grey[5, 5]), int(grey.min()), int(grey.max())
    assert (page > 240) is bright
    assert brightest - darkest > 180  # text against page
