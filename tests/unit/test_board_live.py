"""The board while a study runs: moves, progress, time left, news, and when there is nothing more to wait for."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_ties import HARD_AND_EASY, study, trial

from distseg.cli import watch as watching
from distseg.leaderboard.board import Board, BoardReader, read_board
from distseg.leaderboard.live import live_text, news, over, ranks, running, seconds_left
from distseg.leaderboard.select import Filters
from distseg.records import Progress, Status, TrialRecord

DICE = "dice_mean_per_image"


def change(root: Path, name: str, **changed: Any) -> None:
    folder = root / "trials" / name
    TrialRecord.load(folder).model_copy(update=changed).save(folder)


def progress(root: Path, name: str, **changed: Any) -> None:
    told = {
        "step": 30,
        "steps": 40,
        "epoch": 3,
        "epochs": 4,
        "loss": 0.25,
        "images_per_s": 85.0,
        "seconds_left": 80.0,
        "gpu_utilisation": None,
        "gpu_memory_bytes": None,
        "gpu_power_w": None,
    }
    text = Progress(**(told | changed)).model_dump_json()
    (root / "trials" / name / "progress.json").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two trials ended, two at work, of twelve."""
    root = study(tmp_path / "studies/cars", trials=12)
    for number in range(4):
        trial(root, f"{number:04d}", {name: dice - number / 100 for name, dice in HARD_AND_EASY.items()})
        change(root, f"{number:04d}", seconds=100.0, epochs=4, epochs_planned=4)
    for name in ("0002", "0003"):
        change(root, name, status=Status.RUNNING, epochs=2)
    progress(root, "0002")
    return root


def lines_of(board: Board, before: dict[str, int] | None = None, width: int = 80, height: int = 40) -> list[str]:
    at_work = running(board)
    return live_text(board, at_work, ranks(board) if before is None else before, width, height).plain.splitlines()


@pytest.mark.parametrize("width", [80, 200])
def test_a_screen_of_a_study_at_work(root: Path, width: int) -> None:
    lines = lines_of(read_board(root), width=width)
    assert max(map(len, lines)) <= width
    assert lines[0] == "Study cars"
    # eight to come at 100 s each, two at once, while the two that run need 80 s and (not told yet) 100 s: 980 s / 2
    assert lines[3] == "Best so far 0.7250 (0000); 2 of 12 ended, 2 running; about 8:10 left"
    assert lines[5].split() == ["running", "epoch", "progress", "left", "loss", "images/s"]
    assert lines[6].split() == ["0002", "3/4", "############....", "75%", "1:20", "0.2500", "85.0"]
    assert lines[7].split()[:3] == ["0003", "-", "................"]
    assert lines[9].split()[:5] == ["#", "move", "trial", "status", "dice/img"]
    assert [line.split()[1] for line in lines[10:14]] == ["0000", "0001", "0002", "0003"]


def test_what_nvml_says_where_there_is_a_gpu(root: Path) -> None:
    progress(root, "0002", gpu_utilisation=0.93, gpu_memory_bytes=12 * 2**30, gpu_power_w=310.4)
    change(root, "0000", gpu_hours=1.5, energy_wh=420.0)
    lines = lines_of(read_board(root), width=120)
    assert lines[5].split()[-3:] == ["GPU", "GiB", "W"]
    assert lines[6].split()[-3:] == ["93%", "12.0", "310"]
    assert lines[3].endswith("1.5 GPU hours, 0.42 kWh")


def test_a_silent_trial_is_told_of(root: Path) -> None:
    path = root / "trials/0002/progress.json"
    then = time.time() - 95

    os.utime(path, (then, then))
    assert lines_of(read_board(root))[6].endswith("no news for 1:35")


def test_moves_since_the_ranking_last_changed(root: Path) -> None:
    before = ranks(read_board(root))
    change(root, "0002", metrics={DICE: 0.99})
    trial(root, "0004", {"g0": 0.1, "g1": 0.2})
    table = [line.split() for line in lines_of(read_board(root), before)[10:]]
    assert [row[:3] for row in table] == [
        ["1", "+2", "0002"],
        ["2", "-1", "0000"],
        ["3", "-1", "0001"],
        ["4", "0003", "RUNNING"],
        ["5", "new", "0004"],
    ]


def test_a_low_screen_says_what_it_hides(root: Path) -> None:
    lines = lines_of(read_board(root), height=14)
    assert len(lines) <= 14
    assert lines[-1] == "and 2 more rows"


def test_a_failure_is_told_at_the_top_and_cannot_steer_the_terminal(root: Path) -> None:
    change(root, "0001", status=Status.FAILED, reason="bad\x1b[2J\nbytes")
    assert "0001 failed: bad?[2J bytes" in lines_of(read_board(root))


def test_time_left_is_told_when_it_can_be(root: Path) -> None:
    board = read_board(root)
    assert seconds_left(board, []) is None
    last = study(root, trials=4)
    assert seconds_left(read_board(last), running(board)) == 100  # the slower of the two, and nothing to come
    for name in ("0000", "0001"):
        change(root, name, status=Status.RUNNING)
    board = read_board(root)
    assert seconds_left(board, running(board)) is None


def test_news_are_lines(root: Path) -> None:
    earlier = read_board(root)
    assert news(earlier, None) == []
    assert news(read_board(root), earlier) == []
    change(root, "0002", metrics={DICE: 0.99}, epochs=3)
    change(root, "0003", status=Status.FAILED, reason="out of memory")
    trial(root, "0004", None, metrics={})
    change(root, "0004", status=Status.PENDING)
    assert news(read_board(root), earlier) == [
        f"trial 0002  epoch 3/4  {DICE} 0.9900  rank 1 (was 3)",
        "trial 0003  failed: out of memory",
        "trial 0004  pending",
    ]


def test_over_when_all_that_was_planned_has_ended(root: Path) -> None:
    assert not over(read_board(root))
    for name in ("0002", "0003"):
        change(root, name, status=Status.PRUNED)
    assert not over(read_board(root))
    study(root, trials=4)
    assert over(read_board(root))


def test_watching_elsewhere_ends_with_the_study(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "REFRESH_S", 0.02)
    study(root, trials=4)

    def ends() -> None:
        time.sleep(0.2)
        for name in ("0003", "0002"):
            change(root, name, status=Status.COMPLETED, epochs=4)

    thread = threading.Thread(target=ends)
    thread.start()
    board = watching.watch(BoardReader([root]), Filters())
    thread.join()
    assert [row.status for row in board.rows] == [Status.COMPLETED] * 4
    told = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert told[-1] == "watch: all trials have ended"
    assert "trial 0003  completed" in told
    assert any(line.startswith("trial 0002  epoch 4/4") for line in told)


@pytest.mark.parametrize(
    ("patience", "at_work", "why"),
    [
        ("_QUIET_S", False, "no trial runs and nothing has happened"),
        ("_SILENT_S", True, "is the process that searches"),
    ],
)
def test_watching_does_not_wait_for_ever(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    patience: str,
    at_work: bool,
    why: str,
) -> None:
    monkeypatch.setattr(watching, "REFRESH_S", 0.02)
    monkeypatch.setattr(watching, patience, 0.1)
    if not at_work:
        for name in ("0002", "0003"):
            change(root, name, status=Status.INTERRUPTED)
    watching.watch(BoardReader([root]), Filters())
    assert why in capsys.readouterr().err.splitlines()[-1]
