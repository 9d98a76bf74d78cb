"""``distseg doctor``: what its probes make of facts, of this machine, and of probes that fail or hang."""

import fcntl
import json
import os
import signal
import sys
import time
import tomllib
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from distseg.cli import doctor as command
from distseg.cli import main as cli
from distseg.doctor import gpu, machine, software, storage, store
from distseg.doctor.finding import Asked, Finding, Level, Survey, survey
from distseg.errors import HomeError
from distseg.home import Home
from distseg.queue import JobSpec, Queue

GIB = 2**30
OK, WARNING, MISSING, ERROR = Level
REPOSITORY = Path(__file__).resolve().parents[2]


def levels(findings: Sequence[Finding]) -> dict[str, Level]:
    return {finding.name: finding.level for finding in findings}


# probes that fail


def fine(number: int) -> Survey:
    print("noise that belongs nowhere")
    return Survey([Finding("it", str(number))], hosts=("a",))


def raises(error: Exception) -> Survey:
    raise error


def hangs() -> Survey:
    time.sleep(3600)
    raise AssertionError


def dies() -> Survey:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_probe_that_raises_is_a_finding() -> None:
    (bad_input,) = survey("home", partial(raises, HomeError("home: a file"))).findings
    assert bad_input == Finding("home", "home: a file", ERROR)
    (defect,) = survey("x", partial(raises, KeyError("a\nb"))).findings
    assert (defect.name, defect.value, defect.level) == ("x", "KeyError: 'a\\nb'", ERROR)
    assert "report it" in defect.next_step


def test_a_probe_that_hangs_or_dies_is_a_finding(capfd: pytest.CaptureFixture[str]) -> None:
    asked = [Asked("a", partial(fine, 3), 60), Asked("b", hangs, 0.5), Asked("c", dies, 60)]
    answers = [each.answer() for each in asked]
    assert answers[0] == Survey([Finding("it", "3")], hosts=("a",))
    assert [next(iter(answer.findings)).value for answer in answers[1:]] == [
        "no answer within 0.5 s",
        "the probe's process ended with -9",
    ]
    assert levels(answers[1].findings) == {"b": ERROR}
    assert capfd.readouterr().out == ""
    for each in asked:
        each._process.join(10)
        assert not each._process.is_alive()


# the machine


def test_this_machine() -> None:
    found = {finding.name: finding for finding in machine.machine().findings}
    assert list(found) == ["CPUs", "memory", "/dev/shm", "open files", "ports", "clock"]
    assert found["CPUs"].value.startswith(f"{len(os.sched_getaffinity(0))} of ")
    assert all(finding.level in (OK, WARNING) for finding in found.values())


@pytest.mark.parametrize(
    ("limit", "level", "words"),
    [(None, OK, "8 of 16"), (8.0, OK, "8 of 16"), (1.5, WARNING, "8 of 16, limited to 1.5 by the container")],
)
def test_cpus(limit: float | None, level: Level, words: str) -> None:
    found = machine.cpus(8, 16, limit)
    assert (found.value, found.level) == (words, level)
    assert ("--num-cpus 1" in found.next_step) == (level is WARNING)


@pytest.mark.parametrize(
    ("files", "listed", "cpus", "memory"),
    [
        ({"job/cpu.max": "150000 100000\n", "job/memory.max": f"{GIB}\n"}, "0::/job\n", 1.5, GIB),
        ({"a/cpu.max": "max 100000\n", "cpu.max": "400000 100000", "a/memory.max": "max"}, "0::/a/b\n", 4.0, None),
        (
            {
                "cpu/x/cpu.cfs_quota_us": "50000",
                "cpu/x/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "7",
            },
            "4:cpu,cpuacct:/x\n3:memory:/x\n1:name=systemd:/\n0::/\n",
            *(0.5, 7),
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n", None, None),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096)}, "4:memory:/\n", None, None),  # version 1's "no limit"
        ({}, "", None, None),
    ],
)
def test_limits_of_containers(
    files: dict[str, str], listed: str, cpus: float | None, memory: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    (tmp_path / "cgroup").write_text(listed)
    groups = machine.own_cgroups(tmp_path / "cgroup", tmp_path / "fs")
    assert machine.cpu_limit(groups) == cpus
    assert machine.memory_limit(groups) == memory


def test_memory() -> None:
    meminfo = f"MemTotal: {64 * 2**20} kB\nMemAvailable: {32 * 2**20} kB\nHugePages_Total: 0\n"
    assert machine.memory(meminfo, None) == Finding("memory", "64.0 GiB, 32.0 free")
    tight = machine.memory(meminfo, 2 * GIB)
    assert (tight.value, tight.level) == ("64.0 GiB, 32.0 free, limited to 2.0 by the container", WARNING)


def test_open_files() -> None:
    assert machine.open_files(65536, -1).value == "65536, at most unlimited"
    assert machine.open_files(-1, -1).level is OK
    assert machine.open_files(1024, 4096).level is WARNING


# software


def versions(**known: str) -> software.Installed:
    def version(name: str) -> str:
        if name not in known:
            raise metadata.PackageNotFoundError(name)
        return known[name]

    return version


def test_libraries_against_their_bounds() -> None:
    wanted = [Requirement(line) for line in ("torch>=2.11", "ray[tune]>=2.52,<3", "numpy>=1.26", 'x>=1; extra=="app"')]
    good = software.libraries(wanted, versions(torch="2.15.0+cu132", ray="2.60.0", numpy="2.4.0rc1"))
    assert good == [Finding("libraries", "3 of 3 as wanted: torch 2.15.0+cu132, ray 2.60.0, numpy 2.4.0rc1")]
    bad = software.libraries(wanted, versions(torch="2.10.1", ray="3.0"))
    assert bad == [
        Finding("libraries", "0 of 3 as wanted: "),
        Finding("torch", "2.10.1, want >=2.11", ERROR, "pip install 'torch>=2.11'"),
        Finding("ray", "3.0, want <3,>=2.52", ERROR, "pip install 'ray[tune]<3,>=2.52'"),
        Finding("numpy", "not installed", ERROR, "pip install 'numpy>=1.26'"),
    ]


def test_extras_are_missing_not_wrong() -> None:
    wanted = [Requirement(line) for line in ("torch", 'onnx>=1.16; extra == "onnx"', 'onnxscript; extra == "onnx"')]
    assert software.extra_of("onnx", wanted, versions(onnx="1.20", onnxscript="0.6")) == Finding(
        "extra [onnx]", "onnx 1.20, onnxscript 0.6"
    )
    assert software.extra_of("onnx", wanted, versions(onnx="1.15")) == Finding(
        "extra [onnx]", "onnx 1.15, want >=1.16; onnxscript not installed", MISSING, "pip install 'distseg[onnx]'"
    )


def test_python_against_its_bounds() -> None:
    assert software.python("3.11.7", ">=3.11,<3.15").level is OK
    assert software.python("3.15.0", ">=3.11,<3.15").level is ERROR


def test_what_is_installed_here_is_as_the_project_asks() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = software.libraries([Requirement(line) for line in project["dependencies"]], metadata.version)
    assert [finding.level for finding in found] == [OK]
    assert software.python(sys.version.split()[0], project["requires-python"]).level is OK


# GPUs

H200 = gpu.Gpu("NVIDIA H200", 141 * GIB, 140 * GIB, sliced=False)


@pytest.mark.parametrize(
    ("torch", "driver", "cards", "wanted"),
    [
        (gpu.Torch("2.15", "13.2", 0), None, [], {"torch": OK, "GPUs": MISSING}),
        (gpu.Torch("2.15", "13.2", 1), "580.1", [H200], {"torch": OK, "CUDA": OK, "GPU 0": OK}),
        (gpu.Torch("2.15", "13.2", 0), "400", [H200], {"torch": OK, "CUDA": ERROR, "GPU 0": OK}),
        (gpu.Torch("2.15", None, 0), "580.1", [H200, H200], {"torch": OK, "CUDA": ERROR, "GPU 0": OK, "GPU 1": OK}),
        (
            *(gpu.Torch("2.15", "13.2", 1), "580.1", [gpu.Gpu("NVIDIA H200", GIB, GIB, sliced=True)]),
            {"torch": OK, "CUDA": OK, "GPU 0": WARNING},
        ),
    ],
)
def test_gpus(torch: gpu.Torch, driver: str | None, cards: list[gpu.Gpu], wanted: dict[str, Level]) -> None:
    found = gpu.findings(torch, driver, cards)
    assert levels(found) == wanted
    assert all(finding.next_step for finding in found if finding.level is not OK)


# the home


def test_a_home_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    found = storage.storage(str(tmp_path / "a/b")).findings
    assert found[0].value == f"{tmp_path}/a/b, to be made at its first use"
    assert levels(found)["home's locks"] is OK
    assert [*tmp_path.iterdir()] == []


def test_a_home_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert levels(storage.storage(str(tmp_path)).findings)["home's locks"] is ERROR
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as a file system without locks that says yes
    assert levels(storage.storage(str(tmp_path)).findings)["home's locks"] is ERROR
    assert [*tmp_path.iterdir()] == []


MOUNTS = """\
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 20 0:30 / /shared rw - nfs4 server:/x rw
31 30 0:31 / /shared/fast\\040disk rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/ada", "ext4"),
        ("/shared/a", "nfs4"),
        ("/shared", "nfs4"),
        ("/shared/fast disk/x", "xfs"),
        ("/sharedx", "ext4"),
    ],
)
def test_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    assert storage.file_system(Path(folder), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "hosts", "level"),
    [
        ("ext4", [], OK),
        ("ext4", ["a"], OK),
        ("ext4", ["a", "b"], WARNING),
        ("nfs4", ["a", "b"], OK),
        ("fuse.sshfs", [], WARNING),
        ("tmpfs", [], WARNING),
        ("overlay", [], WARNING),
    ],
)
def test_whether_a_home_serves_the_cluster(kind: str, hosts: list[str], level: Level) -> None:
    assert storage.sharing(kind, hosts).level is level


# the queue's store


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    (found,) = store.store(str(tmp_path), None).findings
    assert "none yet" in found.value
    assert [*tmp_path.iterdir()] == []
    assert levels(store.store(str(tmp_path), None, ["a", "b"]).findings)["queue over hosts"] is ERROR


def test_a_store_and_the_version_of_its_tables(home: Home) -> None:
    queue = Queue.open(home)
    queue.submit(JobSpec(("true",)))
    (found,) = store.store(str(home.root), None, ["a"]).findings
    assert (found.value, found.level) == (f"{home.queue}/queue.sqlite, tables of version 2", OK)
    with queue.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM schema_version WHERE version = 2")
    (older,) = store.store(str(home.root), None).findings
    assert "brings it to version 2" in older.next_step
    assert queue.database.version() == 1, "looking has changed it"
    with queue.database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO schema_version VALUES (99)")
    (newer,) = store.store(str(home.root), None).findings
    assert (newer.level, newer.next_step) == (ERROR, "upgrade distseg on this machine")
    queue.database.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:geheim@127.0.0.1:9/db",
        "postgresql://ada@127.0.0.1:9/db?password=geheim&sslpassword=geheim",
        "postgresql://ada:geheim@/db?host=/no/such/folder",
        "mysql://ada:geheim@host/db",
        "geheim",
    ],
)
def test_a_store_that_cannot_be_reached_tells_no_secret(url: str, tmp_path: Path) -> None:
    (found,) = store.store(str(tmp_path), url).findings
    assert found.level is ERROR
    assert "geheim" not in json.dumps(found.to_json())
    assert "\n" not in found.value


# the command


@pytest.mark.parametrize("level", [OK, MISSING, WARNING, ERROR])
def test_only_an_error_fails(
    level: Level, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Home
) -> None:
    asked: list[str] = []

    class Told:
        def __init__(self, name: str, probe: Any, timeout_s: float) -> None:
            asked.append(name)
            self.name = name

        def answer(self) -> Survey:
            return Survey([Finding(self.name, "[bold]x[/bold]", level if self.name == "GPUs" else OK, "do this")])

    monkeypatch.setattr("distseg.doctor.finding.Asked", Told)
    monkeypatch.setattr("distseg.doctor.machine.machine", lambda: Survey([]))
    monkeypatch.setattr("distseg.doctor.software.software", lambda: Survey([]))

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["distseg", "doctor", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert (end.value.code or 0) == (command.FAILED if level is ERROR else 0)
        return capsys.readouterr().out

    document = json.loads(run("--json"))
    assert document["ok"] is (level is not ERROR)
    assert {"name": "GPUs", "value": "[bold]x[/bold]", "level": level.value, "next_step": "do this"} in document[
        "findings"
    ]
    assert asked == ["Ray cluster", "GPUs", "home", "queue's store"]
    lines = run().splitlines()
    assert f"{level.value} " in next(line for line in lines if "GPUs" in line) + " "
    assert len({line.find("[bold]") for line in lines if "[bold]" in line}) == 1
