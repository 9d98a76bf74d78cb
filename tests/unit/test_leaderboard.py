"""The leaderboard: a pure function of the records, readable at 80 columns and at 200."""

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner, Result

from distseg.cli.leaderboard import leaderboard
from distseg.errors import HomeError, InputError
from distseg.leaderboard import rank as ranking
from distseg.leaderboard.board import Board, read_board
from distseg.leaderboard.rank import comparable_sets, sorting
from distseg.leaderboard.render import render, to_json
from distseg.leaderboard.store import Store, Trial, records
from distseg.records import LeaderboardRow, Status, StudyInfo, TrialRecord

ROOT = Path("/home/studies/cars")
DICE = "dice_mean_per_image"
STUDY = StudyInfo(
    name="cars",
    metric=DICE,
    mode="max",
    base="carvana",
    trials_planned=20,
    data="shards",
    data_digest="d" * 64,
    split_digest="e" * 64,
    created_at="2025-01-01T00:00:00",
    version="0.1.0",
)
CONTRACT = {
    *("rank", "trial_id", "status", "metrics", "overrides", "epochs", "gpu_hours", "cpu_hours"),
    *("data_digest", "split_digest", "resolution", "bad_samples", "checkpoint"),
}


def trial(number: int, dice: float | None = None, **changed: Any) -> TrialRecord:
    known: dict[str, Any] = {
        "trial_id": f"{number:04d}",
        "study": "cars",
        "status": Status.COMPLETED,
        "task": "binary",
        "metric": DICE,
        "mode": "max",
        "architecture": "unet",
        "metrics": {} if dice is None else {DICE: dice, "iou_mean_per_image": dice - 0.01},
        "epochs": 5,
        "epochs_planned": 10,
        "data": "/shards",
        "data_digest": "d" * 64,
        "split_digest": "5" * 64,
        "resolution": (128, 96),
        "checkpoint": "checkpoints/best.pt",
        "created_at": "2025-01-01T00:00:00",
        "seconds": 90.0,
    }
    return TrialRecord(**(known | changed))


def placed_in(trials: list[TrialRecord], root: Path = ROOT, study: str = "cars") -> list[Trial]:
    return [Trial(record, root / "trials" / record.trial_id, study) for record in trials]


def rank(trials: list[TrialRecord], metric: str, mode: str, root: Path = ROOT) -> list[LeaderboardRow]:
    return ranking.rank(placed_in(trials, root), metric, mode)


def board_of(trials: list[TrialRecord], metric: str = DICE) -> Board:
    return Board((STUDY,), metric, "max", tuple(rank(trials, metric, "max")))


def board_of_eight() -> list[TrialRecord]:
    def tried(number: int, dice: float | None, encoder: str, lr: float, policy: str, **changed: Any) -> TrialRecord:
        overrides = {"model.encoder": encoder, "optim.lr": lr, "augment.policy": policy, "loss.name": "dice"}
        return trial(number, dice, overrides=overrides, **changed)

    return [
        trial(0, 0.9712),
        tried(1, 0.9871, "resnet34", 0.000312, "flip"),
        tried(2, 0.9903, "efficientnet-b0", 0.001, "color"),
        tried(3, 0.9107, "resnet18", 3e-5, "strong", status=Status.PRUNED, epochs=1),
        tried(4, None, "resnet50", 0.01, "flip", status=Status.FAILED, reason="loss is NaN at step [12]"),
        tried(5, 0.95, "resnet34", 0.0005, "flip", status=Status.RUNNING, epochs=3),
        tried(6, 0.9999, "resnet34", 0.0005, "flip", resolution=(256, 256)),
        tried(7, 0.93, "resnet34", 0.002, "flip", status=Status.INTERRUPTED, reason="node lost"),
    ]


def shown(trials: list[TrialRecord], width: int | None, metric: str = DICE) -> list[str]:
    console = Console(file=io.StringIO(), width=width or 80, force_terminal=width is not None, color_system=None)
    render(console, board_of(trials, metric))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def placed(rows: list[LeaderboardRow]) -> list[tuple[str, int | None]]:
    return [(row.trial_id, row.rank) for row in rows]


def test_best_first_then_waiting_then_apart_then_failed() -> None:
    waiting = trial(8, None, status=Status.PENDING, resolution=None)
    assert placed(rank([*board_of_eight(), waiting], DICE, "max")) == [
        *[("0002", 1), ("0001", 2), ("0000", 3), ("0005", 4), ("0007", 5), ("0003", 6)],
        *[("0008", None), ("0006", None), ("0004", None)],
    ]


def test_lowest_first_and_ties_by_trial_id() -> None:
    trials = [trial(2, 0.5), trial(1, 0.5), trial(0, 0.7)]
    assert placed(rank(trials, DICE, "min")) == [("0001", 1), ("0002", 2), ("0000", 3)]


@pytest.mark.parametrize("figure", [math.nan, math.inf, None, True, "0.9"])
def test_what_is_no_figure_is_not_ranked(figure: object) -> None:
    rows = rank([trial(0, metrics={DICE: figure}), trial(1, 0.1)], DICE, "max")
    assert placed(rows) == [("0001", 1), ("0000", None)]


def test_a_failed_trial_is_not_ranked_even_with_a_figure() -> None:
    rows = rank([trial(0, 0.99, status=Status.FAILED, reason="disk full"), trial(1, 0.1)], DICE, "max")
    assert placed(rows) == [("0001", 1), ("0000", None)]
    assert rows[1].reason == "disk full"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"split_digest": "6" * 64}, "split 66666666, not 55555555"),
        ({"resolution": (256, 128)}, "resolution 256x128, not 128x96"),
        ({"resolution": None}, "resolution of each image, not 128x96"),
        ({"task": "multiclass"}, "task multiclass, not binary"),
        ({"metric": "iou_dataset"}, "metric iou_dataset, not dice_mean_per_image"),
    ],
)
def test_other_conditions_stand_apart(changed: dict[str, Any], why: str) -> None:
    rows = rank([trial(0, 0.99, **changed), trial(1, 0.1), trial(2, 0.2)], DICE, "max")
    assert placed(rows) == [("0002", 1), ("0001", 2), ("0000", None)]
    assert [row.apart for row in rows] == [None, None, why]


def test_of_two_sets_as_large_the_earlier_trial_decides() -> None:
    trials = [trial(1, 0.2), trial(0, 0.1, task="multiclass")]
    assert [[t.record.trial_id for t in members] for members in comparable_sets(placed_in(trials), DICE)] == [
        ["0000"],
        ["0001"],
    ]


def test_no_records_no_rows() -> None:
    assert comparable_sets([], DICE) == []
    assert rank([], DICE, "max") == []


some_trials = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from([0.1, 0.2, 0.3, math.nan])),
        st.sampled_from(Status),
        st.sampled_from(["5" * 64, "6" * 64]),
        st.sampled_from([(64, 64), (128, 96)]),
    ),
    max_size=8,
)


@given(some_trials, st.randoms(use_true_random=False), st.sampled_from(["max", "min"]))
def test_a_pure_function_of_the_records_in_any_order(drawn: list[Any], random: Any, mode: str) -> None:
    trials = [
        trial(n, dice, status=status, split_digest=split, resolution=size)
        for n, (dice, status, split, size) in enumerate(drawn)
    ]
    shuffled = random.sample(trials, len(trials))
    rows = rank(trials, DICE, mode, ROOT)
    # compared as text, because NaN differs from itself
    assert [row.model_dump_json() for row in rows] == [
        row.model_dump_json() for row in rank(shuffled, DICE, mode, ROOT)
    ]
    assert sorted(row.trial_id for row in rows) == [record.trial_id for record in trials]
    ranks = [row.rank for row in rows if row.rank is not None]
    assert ranks == list(range(1, len(ranks) + 1))
    ranked = [row for row in rows if row.rank is not None]
    assert len({(row.split_digest, row.resolution) for row in ranked}) <= 1


def test_sorting_by_another_metric() -> None:
    trials = board_of_eight()
    assert sorting([STUDY], trials, None) == (DICE, "max")
    assert sorting([STUDY], trials, "iou_mean_per_image") == ("iou_mean_per_image", "max")
    with pytest.raises(InputError, match=f"'mIoU'.*measures only {DICE}, iou_mean_per_image"):
        sorting([STUDY], trials, "mIoU")


def test_a_study_that_minimizes_keeps_its_mode() -> None:
    assert sorting([STUDY.model_copy(update={"mode": "min"})], [], DICE) == (DICE, "min")


def test_records_of_a_folder(tmp_path: Path) -> None:
    assert records(tmp_path) == []
    for number in (1, 0):
        trial(number, 0.9).save(tmp_path / "trials" / f"{number:04d}")
    torn = tmp_path / "trials/0002/record.json"
    torn.parent.mkdir()
    torn.write_text(trial(2, 0.9).model_dump_json()[:-9])
    foreign = tmp_path / "trials/0003/record.json"
    foreign.parent.mkdir()
    foreign.write_bytes(b"\xff\xfe[]")
    trial(0, 0.9).save(tmp_path / "trials/0004")  # a copied folder
    (tmp_path / "trials/0005").mkdir()  # made, no record yet
    assert [(record.trial_id, record.status.value, record.reason) for record in records(tmp_path)] == [
        ("0000", "COMPLETED", None),
        ("0001", "COMPLETED", None),
        ("0002", "FAILED", "record.json is torn"),
        ("0003", "FAILED", "record.json is torn"),
        ("0004", "FAILED", "record.json is that of trial 0000"),
    ]


def test_a_nan_survives_the_folder_as_no_figure(tmp_path: Path) -> None:
    trial(0, math.nan).save(tmp_path / "trials/0000")
    assert placed(rank(records(tmp_path), DICE, "max", tmp_path)) == [("0000", None)]


def test_study_info(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="cannot be read"):
        StudyInfo.load(tmp_path)
    (tmp_path / "study.json").write_text(STUDY.model_dump_json())
    assert StudyInfo.load(tmp_path) == STUDY
    (tmp_path / "study.json").write_text('{"name": "cars"')
    with pytest.raises(HomeError, match="torn or foreign"):
        StudyInfo.load(tmp_path)


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_terminal_gets_what_fits_and_nothing_cut(width: int) -> None:
    lines = shown(board_of_eight(), width)
    assert max(map(len, lines)) <= width
    headings = lines[4].split()
    assert headings[:5] == ["#", "trial", "status", "dice/img", "encoder"]
    assert lines[5].split()[:5] == ["1", "0002", "COMPLETED", "0.9903", "efficientnet-b0"]
    assert {"encoder", "lr"} <= set(headings)
    assert not any("…" in line for line in lines)
    left_out = " ".join(lines).partition("Not shown at this width:")[2]
    assert ("CPU h" in " ".join(headings)) != ("CPU h" in left_out)


def test_a_wide_terminal_shows_everything() -> None:
    lines = shown(board_of_eight(), 200)
    wanted = "# trial status dice/img encoder lr policy epoch minutes iou/img loss.name CPU h images bad resolution"
    assert " ".join(lines[4].split()) == wanted
    assert lines[5].split()[4:11] == ["efficientnet-b0", "0.001", "color", "5/10", "1.5", "0.9803", "dice"]
    assert lines[7].split()[4:7] == ["base", "base", "base"]


def test_below_the_table_stand_reasons_facts_and_the_next_step() -> None:
    text = "\n".join(shown(board_of_eight(), 80))
    assert "0004 failed: loss is NaN at step [12]" in text
    assert "0007 interrupted: node lost" in text
    assert "Not comparable with the ranking above: resolution 256x256, not 128x96" in text
    assert "Measured at 128x96, split 55555555, data dddddddd" in text
    assert text.endswith("Next: distseg export cars --out model.ts")
    assert "Measured at each image's own size" in "\n".join(shown([trial(0, 0.5, resolution=None)], 80))
    assert "/shards" not in text
    assert "leaky" not in text
    assert "The split is leaky" in "\n".join(shown([trial(0, 0.5, split_leaky=True)], 80))


def test_the_next_step_names_the_trial_when_sorted_otherwise() -> None:
    text = "\n".join(shown(board_of_eight(), 80, "iou_mean_per_image"))
    assert text.endswith("Next: distseg export cars --out model.ts --trial 0002")


def test_elsewhere_plain_lines_with_exact_names() -> None:
    long = "a_very_long_encoder_name_" * 8
    trials = [*board_of_eight(), trial(8, 0.1, overrides={"model.encoder": long})]
    lines = shown(trials, None)
    table = lines[4 : 4 + 1 + 8]  # the trial that stands apart is not among them
    assert {DICE, "iou_mean_per_image"} <= set(table[0].split())
    assert all(len(line.split()) == 15 for line in table[1:])
    assert long in table[7]
    start = table[0].index("encoder")
    assert [line[start] for line in table[1:4]] == ["e", "r", "b"]  # efficientnet-b0, resnet34, base


def test_before_the_first_figure() -> None:
    assert shown([], 80)[-1] == f"Next: wait until a trial has finished an epoch; none has {DICE} yet"
    lines = shown([trial(0, None, status=Status.RUNNING, resolution=None)], 80)
    assert lines[5].split()[:4] == ["-", "0000", "RUNNING", "-"]


def test_a_reason_cannot_steer_the_terminal() -> None:
    reason = "bad\x1b[2Jbytes\nsecond [bold]line"
    text = "\n".join(shown([trial(0, status=Status.FAILED, reason=reason)], 80))
    assert "0000 failed: bad?[2Jbytes second [bold]line" in text


def test_the_best_is_green_and_the_failed_red() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", legacy_windows=False)
    render(console, board_of(board_of_eight()))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.partition("m")[0] for line in lines if " 0002 " in line] == ["\x1b[1;32"]
    assert [line.partition("m")[0] for line in lines if "0004 " in line] == ["\x1b[31", "\x1b[31"]


def test_json_has_the_fields_of_the_contract() -> None:
    trials = [trial(0, 0.9, overrides={"optim.lr": 0.001}), trial(1, metrics={DICE: math.nan, "per_class": [math.nan]})]
    document = to_json(board_of(trials))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["study"], document["metric"], document["mode"]) == ("cars", DICE, "max")
    first, second = document["rows"]
    assert set(first) >= CONTRACT
    assert first["rank"] == 1
    assert first["status"] == "COMPLETED"
    assert first["resolution"] == [128, 96]
    assert first["checkpoint"] == "/home/studies/cars/trials/0000/checkpoints/best.pt"
    assert second["metrics"] == {DICE: None, "per_class": [None]}


def command(home: Path, *words: str) -> Result:
    app = Typer()
    app.command()(leaderboard)
    return CliRunner().invoke(app, [*words, "--home", str(home)])


def save_study(home: Path, name: str, *trials: TrialRecord) -> None:
    folder = home / "studies" / name
    for record in trials:
        record.save(folder / "trials" / record.trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(STUDY.model_copy(update={"name": name}).model_dump_json())


def test_several_studies_are_one_board_where_they_can_be_compared(tmp_path: Path) -> None:
    save_study(tmp_path, "cars", trial(0, 0.9), trial(1, 0.7))
    save_study(tmp_path, "more", trial(0, 0.8), trial(1, 0.95, split_digest="6" * 64))
    both = command(tmp_path, "cars", "more", "cars")
    assert both.exit_code == 0
    lines = both.stdout.splitlines()
    assert lines[:2] == ["Studies cars, more", "4 of 40 trials: 4 completed"]
    assert [line.split()[:2] for line in lines[5:8]] == [["1", "cars/0000"], ["2", "more/0000"], ["3", "cars/0001"]]
    assert "Not comparable with the ranking above: split 66666666, not 55555555" in lines
    assert lines[-1] == "Next: distseg export cars --out model.ts"


def test_studies_of_different_metrics_stand_apart(tmp_path: Path) -> None:
    save_study(tmp_path, "cars", trial(0, 0.5))
    save_study(tmp_path, "roads", *(trial(n, 0.9, metric="iou_mean_per_image") for n in range(3)))
    board = read_board(tmp_path / "studies/cars", tmp_path / "studies/roads")
    assert [(row.study, row.rank) for row in board.rows] == [("cars", 1), *[("roads", None)] * 3]
    assert board.rows[1].apart == f"metric iou_mean_per_image, not {DICE}"


def test_the_command_shows_the_newest_study_when_none_is_named(tmp_path: Path) -> None:
    save_study(tmp_path, "cars", trial(0, 0.9))
    save_study(tmp_path, "roads", trial(0, 0.8))
    os.utime(tmp_path / "studies/cars/study.json", (2e9, 2e9))
    assert command(tmp_path).stdout.startswith("Study cars\n")


def test_the_command_prints_one_json_document(tmp_path: Path) -> None:
    save_study(tmp_path, "cars", trial(0, 0.9))
    save_study(tmp_path, "roads", trial(0, 0.8))
    one = json.loads(command(tmp_path, "roads", "--json", "--sort", "iou_mean_per_image").stdout)
    assert (one["study"], one["metric"], one["rows"][0]["rank"]) == ("roads", "iou_mean_per_image", 1)
    two = json.loads(command(tmp_path, "roads", "cars", "--json").stdout)
    assert [board["study"] for board in two["studies"]] == ["roads", "cars"]
    assert (two["study"], two["metric"]) == ("roads, cars", DICE)
    assert [(row["rank"], row["study"]) for row in two["rows"]] == [(1, "cars"), (2, "roads")]


def test_the_command_refuses_what_it_does_not_know_before_it_prints(tmp_path: Path) -> None:
    nothing = command(tmp_path)
    assert isinstance(nothing.exception, HomeError)
    assert "no study yet" in str(nothing.exception)
    save_study(tmp_path, "cars", trial(0, 0.9))
    for words, wanted in [(("cars", "vans"), HomeError), (("cars", "--sort", "miou"), InputError)]:
        refused = command(tmp_path, *words)
        assert type(refused.exception) is wanted
        assert refused.stdout == ""


def test_filters_hide_rows_and_keep_ranks(tmp_path: Path) -> None:
    save_study(
        tmp_path,
        "cars",
        trial(0, 0.9),
        trial(1, 0.8, overrides={"optim.lr": 0.001, "augment.policy": "none"}),
        trial(2, 0.7, status=Status.PRUNED, overrides={"optim.lr": 0.003}),
    )
    (tmp_path / "studies/cars/config.yaml").write_text("optim: {lr: 1.0e-3}\naugment: {policy: flip}\n")

    def ranks(*words: str) -> list[int]:
        return [row["rank"] for row in json.loads(command(tmp_path, "cars", "--json", *words).stdout)["rows"]]

    assert ranks("--status", "pruned") == [3]
    assert ranks("--status", "pruned", "--status", "COMPLETED") == [1, 2, 3]
    assert ranks("--where", "optim.lr=1e-3") == [1, 2]  # the base config's own value counts
    assert ranks("--where", "optim.lr=1e-3", "--where", "augment.policy=none") == [2]
    assert ranks("--where", "augment.policy=elastic") == []
    shown = command(tmp_path, "cars", "--status", "pruned").stdout
    assert "1 of 3 rows shown, ranks are those of all" in shown
    assert shown.endswith("Next: distseg export cars --out model.ts\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--status", "dead"], "--status: got 'dead', want one of PENDING, RUNNING"),
        (["--where", "optim.lr"], "--where: got 'optim.lr', want key=value"),
        (["--where", "optim.lrate=1"], "unknown field 'optim.lrate'; did you mean 'optim.lr'"),
    ],
)
def test_filters_refuse_what_they_do_not_know(tmp_path: Path, words: list[str], why: str) -> None:
    refused = command(tmp_path, *words)
    assert isinstance(refused.exception, InputError)
    assert why in str(refused.exception)


WRITER = """
import sys
from pathlib import Path
from distseg.records import TrialRecord
folder = Path(sys.argv[1])
record = TrialRecord.load(folder)
for epoch in range(200):
    record.model_copy(update={"epochs": epoch, "reason": "x" * (epoch * 50)}).save(folder)
"""


def test_a_reader_beside_two_writers_always_sees_whole_records(tmp_path: Path) -> None:
    trial(0, 0.9).save(tmp_path / "trials/0000")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "trials/0000")]) for _ in range(2)]
    store, seen = Store(tmp_path), set()
    while any(writer.poll() is None for writer in writers):
        [found] = store.trials()
        assert found.record.status is Status.COMPLETED
        seen.add(found.record.epochs)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(seen) > 3
    assert [found.record for found in store.trials()] == records(tmp_path)
    assert [path.name for path in (tmp_path / "trials/0000").iterdir()] == ["record.json"]
