"""Who may open the page, where it may be served, and what is said where a library is missing."""

import sys
from pathlib import Path

import pytest
from studies import searched_study

from distseg.app.address import bound, is_loopback, url_of
from distseg.app.study import StudyTab
from distseg.app.users import read_users
from distseg.cli.app import app
from distseg.errors import InputError


def users_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "users"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_only_the_right_password_of_the_right_user_is_admitted(tmp_path: Path) -> None:
    users = read_users(users_file(tmp_path, "anna:first \n\n ben :with:colon and ü\n"))
    assert users.admits("anna", "first ")
    assert users.admits("ben", "with:colon and ü")
    for user, password in (
        ("anna", "first"),
        ("anna", ""),
        ("anna", "with:colon and ü"),
        ("", ""),
        ("carl", ""),
        ("carl", "first "),
        ("anna\n", "first "),
    ):
        assert not users.admits(user, password)
    assert b"first" not in b"".join(users.digests.values())


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("anna:x\n", 0o644, "everybody on this machine may open it; run: chmod 600"),
        ("anna:x\n", 0o602, "everybody on this machine may open it"),
        ("anna:x\nsecret\n", 0o600, "line 2: want 'user:password'"),
        ("anna:\n", 0o600, "line 1: want 'user:password'"),
        (":secret\n", 0o600, "line 1: want 'user:password'"),
        ("anna:secret\nanna:other\n", 0o600, "line 2: user 'anna' stands there twice"),
        ("\n", 0o600, "names nobody"),
    ],
)
def test_a_bad_file_is_refused_without_telling_its_secrets(tmp_path: Path, text: str, mode: int, words: str) -> None:
    with pytest.raises(InputError) as told:
        read_users(users_file(tmp_path, text, mode))
    assert words in str(told.value)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_missing_file_and_one_that_is_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_users(tmp_path / "none")
    path = users_file(tmp_path, "")
    path.write_bytes(b"anna:\xff\n")
    with pytest.raises(InputError, match="no UTF-8 text"):
        read_users(path)


def test_a_port_that_is_taken_is_told() -> None:
    with bound("127.0.0.1", 0) as place:
        address, port = url_of(place), place.getsockname()[1]
        assert address == f"http://127.0.0.1:{port}"
        with pytest.raises(InputError, match=rf"--port {port}: cannot be served there \(.+\); choose another"):
            bound("127.0.0.1", port).__enter__()
    with bound("127.0.0.1", port), pytest.raises(InputError, match="cannot be served there"):
        bound("192.0.2.1", port).__enter__()  # an address of documentation, never ours


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_who_reaches_a_host(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
    assert not is_loopback("example.org")


def test_without_gradio_the_command_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install 'distseg\[app\]'"):
        app(tmp_path / "model.ts")


def test_without_plotly_there_is_the_board_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = StudyTab(searched_study(tmp_path / "cars", trials=3), tmp_path)
    assert f'src="report/{tab.token}?1"' in tab.frame()
    assert f'src="report/{tab.token}?2"' in tab.frame()
    assert "<title>Study cars</title>" in tab.report.read_text()
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(InputError, match=r"pip install 'distseg\[report\]'"):
        tab.frame()
    assert tab.board().count("<tr") == 4
