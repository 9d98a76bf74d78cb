"""``distseg jobs``: what the commands print, and how they end."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from queue_conformance import FAILED, SUCCEEDED, Stage

from distseg.cli import main as cli
from distseg.home import Home
from distseg.queue import Job, JobSpec, JobState, Queue
from distseg.queue.client import log_path, output_of


class Shell:
    """Runs ``distseg jobs ...`` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """What it printed: on stdout if it went well, else on stderr."""
        self.monkeypatch.setattr(sys, "argv", ["distseg", "jobs", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = self.capsys.readouterr()
        assert (end.value.code or 0) == code, printed
        return printed.err if code == 2 else printed.out

    def json(self, *words: str) -> Any:
        at = words.index("--") if "--" in words else len(words)
        return json.loads(self(*words[:at], "--json", *words[at:]))


@pytest.fixture
def jobs(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.fixture
def stage(home: Home) -> Iterator[Stage]:
    """The same store as the commands'."""
    home.queue.mkdir(parents=True)
    stage = Stage(home, f"sqlite:///{home.queue / 'queue.sqlite'}")
    yield stage
    stage.database.close()


def test_submit_shows_what_to_do_next_and_list_what_there_is(jobs: Shell) -> None:
    out = jobs("submit", "--gpus", "0.5", "--cpus", "2", "--name", "train", "--", "python", "t.py", "--lr", "3", "a b")
    job_id = out.split(":")[0]
    assert out.splitlines() == [
        f"{job_id}: queued as 'train'",
        f"what it waits for:  distseg jobs explain {job_id}",
        f"its output:         distseg jobs logs {job_id} --follow",
        f"until it is over:   distseg jobs wait {job_id}",
        f"no longer wanted:   distseg jobs cancel {job_id}",
    ]
    (row,) = jobs.json("list")["jobs"]
    submitted = row.pop("submitted_at")
    assert submitted.endswith("+00:00")
    assert row == {
        "id": job_id,
        "name": "train",
        "state": "QUEUED",
        "priority": 0,
        "gpus": 0.5,
        "cpus": 2.0,
        "attempt": 0,
        "owner": row["owner"],
        "started_at": None,
        "finished_at": None,
        "reason": None,
        "command": ["python", "t.py", "--lr", "3", "a b"],
    }
    assert row["owner"]
    out = jobs("list")
    assert out.startswith("1 QUEUED\n")
    assert f"{job_id}  train  QUEUED  0         0.5   2     0" in out


def test_an_empty_queue(jobs: Shell) -> None:
    assert jobs.json("list") == {"jobs": []}
    assert jobs("list").startswith("no jobs yet\n")


def test_a_table_is_limited_and_says_so(jobs: Shell, stage: Stage) -> None:
    for number in range(4):
        stage.submit(f"n{number}")
    out = jobs("list", "--limit", "3")
    assert "n2" in out
    assert "n3" not in out
    assert out.endswith("... and 1 more: distseg jobs list --limit 4\n")
    assert len(jobs.json("list")["jobs"]) == 4


def test_every_change_by_id_or_name(jobs: Shell) -> None:
    job_id = jobs.json("submit", "--name", "a", "--", "true")["id"]
    assert jobs.json("pause", "a")["state"] == "PAUSED"
    assert jobs("explain", job_id) == (
        f"Paused: 'distseg jobs unpause {job_id}' lets it wait for its turn again. "
        "No dispatcher is at work: start one with 'distseg jobs serve'.\n"
    )
    assert jobs.json("unpause", job_id)["state"] == "QUEUED"
    assert jobs("priority", "a", "7") == f"{job_id}: priority 7\n"
    assert jobs.json("priority", "a", "--", "-7")["priority"] == -7
    assert jobs("cancel", "a") == f"{job_id}: CANCELLED\n"
    assert jobs("retry", "a") == f"{job_id}: QUEUED\n"
    shown = jobs.json("show", "a")
    assert [change["kind"] for change in shown["events"]] == [
        "QUEUED",
        "PAUSED",
        "QUEUED",
        "PRIORITY",
        "PRIORITY",
        "CANCELLED",
        "QUEUED",
    ]
    assert shown["attempts"] == []
    assert "7 -> -7" in jobs("show", "a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cancel", "nobody"), "job 'nobody': no such id or name"),
        (("submit", "--gpus", "-1", "--", "true"), "--gpus: got -1"),
        (("submit", "--after", "nobody", "--", "true"), "job 'nobody'"),
        (("submit", "--working-dir", "no/such", "--", "true"), "--working-dir: got no/such, want a folder"),
        (("serve", "--address", "127.0.0.1:8265"), "want the dashboard's, such as http://127.0.0.1:8265"),
    ],
)
def test_bad_input_is_one_line(jobs: Shell, words: tuple[str, ...], message: str) -> None:
    error = jobs(*words, code=2)
    assert error.startswith("distseg: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert jobs.json("list") == {"jobs": []}


def test_a_command_is_wanted(jobs: Shell) -> None:
    assert "Missing argument" in jobs("submit", code=2)


def test_wait_tells_success_by_its_exit_code(jobs: Shell, stage: Stage) -> None:
    good, bad, late = stage.submit("good"), stage.submit("bad"), stage.submit("late")
    stage.run(good).finish(SUCCEEDED)
    stage.run(bad).finish(FAILED)
    assert jobs("wait", "good") == f"{good.id} (good): SUCCEEDED, exit code 0\n"
    assert "(bad): FAILED, exit code 1" in jobs("wait", "good", "bad", code=1)
    jobs("wait", "late", "--timeout-s", "0", code=1)
    assert stage.state(late) is JobState.QUEUED


def test_logs_of_all_attempts(jobs: Shell, stage: Stage, home: Home) -> None:
    job = stage.submit("a", retries=1)
    assert jobs("logs", "a") == ""
    for number, outcome in ((1, FAILED), (2, SUCCEEDED)):
        lease = stage.run(job)
        path = log_path(home, job.id, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"from {number}\n")
        lease.finish(outcome)
    assert jobs("logs", "a", "--follow") == "from 1\n--- attempt 2\nfrom 2\n"


def test_logs_follow_across_attempts(stage: Stage, home: Home) -> None:
    job = stage.submit("a", retries=1)
    lease = stage.run(job)
    path = log_path(home, job.id, 1)
    path.parent.mkdir(parents=True)
    path.write_text("one\n")
    pieces = output_of(stage.queue, "a", follow=True)
    assert next(pieces) == b"one\n"
    with open(path, "a") as file:
        file.write("more\n")
    assert next(pieces) == b"more\n"
    lease.finish(FAILED)
    lease = stage.run(job)
    log_path(home, job.id, 2).write_text("two\n")
    assert [next(pieces), next(pieces)] == [b"--- attempt 2\n", b"two\n"]
    lease.finish(SUCCEEDED)
    assert list(pieces) == []


def test_submission_from_python(home: Home, tmp_path: Path) -> None:
    queue = Queue.open(home)
    job = queue.submit(JobSpec(("true",), gpus=1))
    assert isinstance(job, Job)
    assert queue.job("true").state is JobState.QUEUED
    assert queue.cancel(job.id).state is JobState.CANCELLED
    assert queue.wait([job.id])[0].reason == "cancelled by its owner"
    queue.database.close()


# where the store is


def test_another_store_is_named_by_the_environment(
    jobs: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTSEG_QUEUE_URL", f"sqlite:///{tmp_path / 'other.sqlite'}")
    jobs("submit", "--", "true")
    assert (tmp_path / "other.sqlite").exists()
    monkeypatch.setenv("DISTSEG_QUEUE_URL", "mysql://ada:secret@host/db")
    error = jobs("list", code=2)
    assert "postgresql://" in error
    assert "secret" not in error


# which clusters are served


class Unlocked(BaseHTTPRequestHandler):
    """A dashboard that asks nobody for a token."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


def test_a_cluster_open_to_others_is_refused(jobs: Shell) -> None:
    server = HTTPServer(("0.0.0.0", 0), Unlocked)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://0.0.0.0:{server.server_port}"
        error = jobs("serve", "--once", "--address", address, code=2)
        assert f"Ray at {address}: anybody who reaches it may run commands there" in error
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# working directories


def test_a_working_directory_is_zipped_once_as_git_sees_it(home: Home, tmp_path: Path) -> None:
    import zipfile

    from distseg.queue.working_dir import zip_folder

    code = tmp_path / "code"
    (code / "package").mkdir(parents=True)
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "x.pyc").write_text("")
    (code / "package" / "a.py").write_text("1")
    script = code / "run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    first = zip_folder(code, tmp_path / "zips")
    os.utime(script, (1e9, 1e9))
    assert zip_folder(code, tmp_path / "zips") == first  # the same files, whenever they were written
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["package/a.py", "run.sh"]
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755
    script.write_text("#!/bin/bash\n")
    assert zip_folder(code, tmp_path / "zips") != first


def test_a_working_directory_with_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distseg.errors import QueueError
    from distseg.queue import working_dir

    (tmp_path / "big.bin").write_bytes(b"x" * 3000)
    (tmp_path / "small.py").write_text("1")
    monkeypatch.setattr(working_dir, "BYTES_MAX", 2048)
    with pytest.raises(QueueError, match=r"keep data out of it by .gitignore \(largest: big.bin, 0 MiB\)"):
        working_dir.zip_folder(tmp_path, tmp_path / "zips")
    (tmp_path / "empty").mkdir()
    with pytest.raises(QueueError, match="holds no files"):
        working_dir.zip_folder(tmp_path / "empty", tmp_path / "zips")
