"""The report of a study: what it tells, what it cannot tell, and the figures behind its charts."""

import re
import shlex
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from studies import change, searched_study
from test_ties import study

from distseg import config
from distseg.errors import HomeError, InputError
from distseg.leaderboard.board import read_board
from distseg.leaderboard.report import write_report
from distseg.leaderboard.report.figures import pareto
from distseg.leaderboard.report.gather import gather
from distseg.leaderboard.report.importance import TRIALS_MIN, importances
from distseg.records import Status

DICE = "dice_mean_per_image"
RATE, POLICY, WIDTH = "optim.lr", "augment.policy", "model.width"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched_study(tmp_path_factory.mktemp("home") / "studies/cars")


@pytest.fixture(scope="module")
def written(root: Path) -> str:
    out = root.parent.parent / "reports/cars.html"
    write_report(root, out)
    assert [path.name for path in out.parent.iterdir()] == ["cars.html"]
    return out.read_text()


def words_of(document: str) -> str:
    """The page as it reads, its scripts and styles left out."""
    body = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", document, flags=re.S)
    return unescape(re.sub(r"<[^>]+>", " ", body))


def test_all_sections_are_there(written: str) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", written)
    assert titles == [
        *("Leaderboard", "Learning curves", "Metric against cost", "Hyperparameters", "Importance"),
        *("Adaptive augmentation", "Predictions of the best trial", "The best trial again"),
    ]
    assert written.count('class="plotly-graph-div"') == 5


def test_nothing_is_fetched(written: str) -> None:
    own = re.sub(r"<script[^>]*>.*?</script>", "", written, flags=re.S)
    assert re.findall(r'(?:src|href|action)="(?!data:|#)', own) == []
    assert len(re.findall(r'(?:src|href)="', own)) == 9  # eight links down the page, one picture
    assert "url(" not in own
    assert "@import" not in own
    assert "default-src 'none'" in own


def test_board_summary_and_reasons(root: Path, written: str) -> None:
    words, best = words_of(written), read_board(root).best
    assert best is not None
    assert f"Best is {best.trial_id} with {DICE} {best.metrics[DICE]:.4f}" in words
    assert "0015 failed: out of memory on <gpu> & gone" in words
    assert "<gpu>" not in written.split("</script>")[-1]
    assert "Not comparable with the ranking above: resolution 128x128, not 64x64" in words


def test_the_commands_repeat_the_trial(root: Path, written: str) -> None:
    best = read_board(root).best
    assert best is not None
    train, export, submission, evaluate = (
        shlex.split(unescape(command)) for command in re.findall(r"<pre><code>(.*?)</code></pre>", written)
    )
    assert train[:2] == ["distseg", "train"]
    assert train[-3:] == ["--data", "/shards of cars", "--local"]
    again = config.load_run(Path(train[2]), train[3:-3])
    assert again == config.with_overrides(config.load_run(root / "config.yaml"), best.overrides)
    assert again.augment.policy == best.overrides[POLICY]
    assert export[:5] == ["distseg", "export", "cars", "--trial", best.trial_id]
    assert submission[:3] == ["distseg", "submission", "model.ts"]
    assert evaluate == ["distseg", "evaluate", "model.ts", "--data", "/shards of cars"]


def test_pictures_of_the_best_trial(root: Path, written: str) -> None:
    assert "Of 48 validation images, from the top: best car_01 with Dice 0.9900" in words_of(written)
    assert written.count('<img src="data:image/png;base64,') == 1
    best = read_board(root).best
    assert best is not None
    folder = Path(best.folder) / "panels"
    (folder / "best_median_worst.json").rename(folder / "aside")
    try:
        picture = gather(root).picture
        assert picture is not None
        assert picture.words.startswith("The first validation images.")
    finally:
        (folder / "aside").rename(folder / "best_median_worst.json")


def test_curves_and_levels_are_those_of_the_epochs(root: Path) -> None:
    data = gather(root)
    assert len(data.curves) == 15  # one failed before its first epoch
    assert all(curve.epochs[0] == 1 and curve.epochs[-1] == curve.row.epochs for curve in data.curves)
    assert {one.row.overrides[POLICY] for one in data.levels} == {"adaptive"}
    whole = next(one for one in data.levels if one.row.epochs == 4)
    assert whole.levels == (0.0, 0.25, 0.5, 0.75)
    assert whole.images == (80, 160, 240, 320)


def test_the_pareto_front_by_hand(tmp_path: Path) -> None:
    root = searched_study(tmp_path / "cars", trials=5)
    costs_and_figures = [(3.0, 0.8), (1.0, 0.5), (2.0, 0.5), (1.0, 0.4), (4.0, 0.7)]
    for number, (hours, figure) in enumerate(costs_and_figures):
        change(root, f"{number:04d}", cpu_hours=hours, metrics={DICE: figure})
    rows = read_board(root).rows
    assert [row.trial_id for row in pareto(rows, DICE, "max")] == ["0001", "0000"]
    assert [row.trial_id for row in pareto(rows, DICE, "min")] == ["0003"]
    change(root, "0004", gpu_hours=0.1)  # then GPUs are what counts, and the others held none
    assert [row.trial_id for row in pareto(read_board(root).rows, DICE, "max")] == ["0000"]


def test_importance_finds_what_matters_and_calls_the_rest_chance(root: Path) -> None:
    rows = [row for row in read_board(root).rows if row.rank is not None]
    found = {one.path: one for one in importances(rows, DICE, [POLICY, RATE, WIDTH])}
    assert found[RATE].share > 0.7 > 0.5 > found[RATE].chance  # the study was made so
    assert found[WIDTH].share <= found[WIDTH].chance
    assert importances(rows, DICE, [POLICY, RATE, WIDTH]) == sorted(found.values(), key=lambda one: -one.share)


def test_importance_by_hand(tmp_path: Path) -> None:
    root = searched_study(tmp_path / "cars", trials=12)
    for number in range(12):
        figure = 0.5 + 0.1 * (number % 2) + 0.01 * (number // 6)
        change(
            root, f"{number:04d}", metrics={DICE: figure}, overrides={WIDTH: 4 + number % 2}, status=Status.COMPLETED
        )
    rows = read_board(root).rows
    [one] = importances(rows, DICE, [WIDTH])
    # two classes of six: between 12 * 0.05 ** 2 = 0.03, within 12 * 0.005 ** 2 = 0.0003
    assert one.share == pytest.approx((0.03 - 0.0003 / 10) / 0.0303)
    assert one.trials == 12
    assert one.chance < 0.5


def test_importance_is_not_told_of_few_trials(tmp_path: Path) -> None:
    root = searched_study(tmp_path / "cars", trials=TRIALS_MIN - 1)
    assert importances(read_board(root).rows, DICE, [RATE]) == []
    write_report(root, tmp_path / "report.html")
    assert "Not told: that takes at least 12 ranked trials" in words_of((tmp_path / "report.html").read_text())


def test_importance_of_nothing_is_a_chance_in_twenty() -> None:
    """The mark means what it says, over many studies in which nothing matters."""
    from distseg.leaderboard.report import importance

    generator = np.random.default_rng(0)
    beyond = 0
    for _ in range(200):
        classes = importance._classes(generator.integers(0, 3, 30).tolist())
        figures = generator.standard_normal((1, 30))
        shuffled = generator.permuted(np.tile(figures, (200, 1)), axis=1)
        beyond += importance._shares(classes, figures)[0] > np.percentile(importance._shares(classes, shuffled), 95)
    assert 2 <= beyond <= 20  # of 200; 10 expected


def test_a_study_without_a_figure_has_a_report(tmp_path: Path) -> None:
    root = study(tmp_path / "cars")
    write_report(root, tmp_path / "report.html")
    words = words_of((tmp_path / "report.html").read_text())
    assert f"No trial has a {DICE} yet." in words
    assert "No trial has begun." in words


def test_refusals(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HomeError, match="cannot be read"):
        write_report(tmp_path / "absent", tmp_path / "out.html")
    with pytest.raises(InputError, match=r"is a folder; give the path of a file"):
        write_report(root, tmp_path)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(InputError, match=r"plotly is not installed; install it with: pip install 'distseg\[report\]'"):
        write_report(root, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
