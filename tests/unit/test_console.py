import pytest

from distseg.cli import console
from distseg.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"), [("512", (512, 512)), ("480x360", (480, 360)), ("480X360", (480, 360)), ("original", None)]
)
def test_sizes(text: str, size: tuple[int, int] | None) -> None:
    assert console.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "12x", "x12", "-5", "1x2x3", "5.5", "10x70000", "Original size"])
def test_wrong_sizes_are_answered_with_right_ones(text: str) -> None:
    with pytest.raises(InputError, match="want N, WxH or 'original'"):
        console.parse_size(text)


def test_tables_off_a_terminal_are_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 500
    console.print_table("shards", ("what", "n"), [("[red]", 1), (long, 22)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["shards", f"{'what':500}  n", f"{'[red]':500}  1", f"{long}  22"]


def test_progress_off_a_terminal_is_a_line_every_five_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 101.0, 105.0, 106.0, 110.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("packing") as advance:
        for done in (10, 50, 60, 100):
            advance(done, 200)
    captured = capsys.readouterr()
    # 50 samples in 5 s, 150 to go; 100 in 10 s, 100 to go
    assert captured.err.splitlines() == [
        "packing: 50/200, 10.0/s, 15 s left",
        "packing: 100/200, 10.0/s, 10 s left",
    ]
    assert captured.out == ""
