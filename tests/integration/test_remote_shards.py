"""Shards behind real servers on this machine: HTTP that cuts, corrupts and refuses, and S3."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from distseg.augment.keyed_random import KeyedAugment
from distseg.augment.policies import Augmenter
from distseg.config import AugmentConfig
from distseg.data.cache import ShardCache
from distseg.data.layouts import read_corpus
from distseg.data.manifest import Shard, ShardFolder
from distseg.data.order import EpochPlan
from distseg.data.pack import pack
from distseg.data.remote import Retry
from distseg.data.stream import EvalBatches, TrainBatches, batch_loader, open_split
from distseg.data.synthetic.carvana import write_carvana
from distseg.data.verify import verify
from distseg.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = (64, 64)
S3_URL = "s3://lab/data/shards"
QUICK = Retry(first_s=0.01)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cars of four views in shards of four: five or so to train on, and one or more to validate."""
    folder = tmp_path_factory.mktemp("remote")
    write_carvana(folder / "raw", groups=6, views=4, size=SIZE)
    pack(read_corpus("carvana", folder / "raw"), folder / "shards", size=SIZE, val_fraction=0.3, samples_per_shard=4)
    return folder / "shards"


class FaultyServer(ThreadingHTTPServer):
    """Serves one folder; ``faults`` says what goes wrong with the next requests for a name."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, list[str]] = {}
        self.gets: Counter[str] = Counter()
        self.half_sent = threading.Event()
        self.go_on = threading.Event()

    def handle_error(self, *_: object) -> None:
        pass  # a client that was killed


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.gets[name] += 1
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        path = self.server.folder / name
        if fault.isdecimal() or not path.is_file():
            self.send_error(int(fault or 404))
            return
        data = bytearray(path.read_bytes())
        half = len(data) // 2
        if fault == "corrupt":
            data[half] ^= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:half])
        if fault == "stall":
            self.wfile.flush()
            self.server.half_sent.set()
            self.server.go_on.wait(60)
        if fault != "cut":
            self.wfile.write(data[half:])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(shards: Path) -> Iterator[FaultyServer]:
    faulty = FaultyServer(shards)
    with serving(faulty):
        yield faulty
        faulty.go_on.set()


class CuttingProxy(ThreadingTCPServer):
    """Stands before another server, and drops the next ``cuts`` connections that have carried 6000 bytes back."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Proxied)
        self.upstream = ("127.0.0.1", port)
        self.cuts = 0


class _Proxied(BaseRequestHandler):
    server: CuttingProxy

    def handle(self) -> None:
        carried = 0
        with socket.create_connection(self.server.upstream) as upstream:
            threading.Thread(target=self._ask, args=(upstream,), daemon=True).start()
            while data := upstream.recv(2000):
                self.request.sendall(data)
                carried += len(data)
                if carried >= 6000 and self.server.cuts:
                    self.server.cuts -= 1
                    break
            self.request.shutdown(socket.SHUT_RDWR)

    def _ask(self, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := self.request.recv(2000):
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(server: ThreadingTCPServer | ThreadingHTTPServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def s3(shards: Path) -> Iterator[CuttingProxy]:
    """An S3 server of this machine, behind a proxy, that holds the shards under S3_URL."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (extra s3)")
    pytest.importorskip("moto", reason="moto is not installed (extra dev)")
    code = (
        "import sys; from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); server.start()\n"
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read(); server.stop()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with pytest.MonkeyPatch.context() as patch, subprocess.Popen([sys.executable, "-c", code], **pipes) as moto:
        assert moto.stdout is not None
        proxy = CuttingProxy(int(moto.stdout.readline()))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        with serving(proxy):
            store = fsspec.filesystem("s3")
            store.mkdir("lab")
            store.put(str(shards), S3_URL, recursive=True)
            yield proxy
            store.clear_instance_cache()
        moto.communicate()


def training_batches(folder: ShardFolder, workers: int) -> list[tuple[tuple[str, ...], torch.Tensor, torch.Tensor]]:
    """(keys, images, masks) of two epochs, augmented, then of the validation samples."""
    reader = open_split(folder, training=True, fold=None, window=2)
    plan = EpochPlan(reader.shard_sizes, 4, seed=1, window=2, tail="wrap")
    augment = KeyedAugment(Augmenter(AugmentConfig(policy="flip"), SIZE), 1)
    training = TrainBatches(reader, plan, size=SIZE, augment=augment, rank=0, world_size=1)
    validation = EvalBatches(open_split(folder, training=False, fold=None), batch=4, rank=0, world_size=1)
    found = []
    for batches, items in ((training, range(2 * plan.steps)), (validation, range(len(validation)))):
        for batch in batch_loader(batches, items, workers=workers, prefetch=2, pin=False):
            assert batch.bad == ()
            found.append((batch.keys, batch.images.clone(), batch.masks.clone()))
    return found


def assert_equal_batches(remote: ShardFolder, local: ShardFolder, workers: int = 0) -> None:
    got, wanted = training_batches(remote, workers), training_batches(local, 0)
    assert [keys for keys, *_ in got] == [keys for keys, *_ in wanted]
    assert len(wanted) > 8
    for (_, images, masks), (_, wanted_images, wanted_masks) in zip(got, wanted, strict=True):
        assert np.array_equal(images.numpy(), wanted_images.numpy())
        assert np.array_equal(masks.numpy(), wanted_masks.numpy())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_over_faulty_http_is_the_local_one(
    server: FaultyServer, shards: Path, tmp_path: Path, workers: int
) -> None:
    first, second, third, *_ = (shard.name for shard in ShardFolder.open(shards).manifest.shards)
    server.faults = {
        "manifest.json": ["503", "cut"],
        first: ["cut", "cut", "cut"],
        second: ["corrupt"],
        third: ["503", "429", "corrupt", "cut"],
        third.replace(".tar", ".index.jsonl"): ["cut", "500"],
    }
    faults = {name: len(planned) for name, planned in server.faults.items()}
    cache = ShardCache(tmp_path, 10**9, QUICK)
    folder = ShardFolder.open(server.url, cache)
    assert_equal_batches(folder, ShardFolder.open(shards), workers)
    used = {path.name for path in shards.iterdir()}
    assert server.gets == {name: 1 + faults.get(name, 0) for name in used}
    assert not list(tmp_path.glob("*.part"))


def test_a_cache_too_small_for_the_data_set_changes_no_batch(
    server: FaultyServer, shards: Path, tmp_path: Path
) -> None:
    local = ShardFolder.open(shards)
    most = max(shard.bytes for shard in local.manifest.shards)
    cache = ShardCache(tmp_path, most * 5 // 2, QUICK)
    assert verify(ShardFolder.open(server.url, cache)) == []  # one shard open at a time
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= cache.bytes_max
    assert_equal_batches(ShardFolder.open(server.url, cache), local)


def test_streaming_keeps_a_cache_that_holds_a_window_in_its_bounds(
    server: FaultyServer, shards: Path, tmp_path: Path
) -> None:
    tars, indexes = ([path.stat().st_size for path in shards.glob(f"train-*.{end}")] for end in ("tar", "index.jsonl"))
    cache = ShardCache(tmp_path, 3 * max(tars) + sum(indexes), QUICK)  # a window of two shards, and one more
    assert sum(tars) + sum(indexes) > cache.bytes_max
    reader = open_split(ShardFolder.open(server.url, cache), training=True, fold=None, window=2)
    plan = EpochPlan(reader.shard_sizes, 4, seed=1, window=2, tail="wrap")
    augment = KeyedAugment(Augmenter(AugmentConfig(policy="none"), SIZE), 1)
    batches = TrainBatches(reader, plan, size=SIZE, augment=augment, rank=0, world_size=1)
    for step in range(3 * plan.steps):
        assert batches[step].bad == ()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= cache.bytes_max


def test_a_damaged_copy_is_fetched_once_more(server: FaultyServer, shards: Path, tmp_path: Path) -> None:
    folder, local = ShardFolder.open(server.url, ShardCache(tmp_path, 10**9, QUICK)), ShardFolder.open(shards)
    training_batches(folder, 0)
    for path in tmp_path.iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        path.write_bytes(data)
    assert_equal_batches(folder, local)
    assert {server.gets[shard.name] for shard in local.manifest.shards} == {2}
    for shard in local.manifest.shards:
        assert (tmp_path / shard.sha256).read_bytes() == (shards / shard.name).read_bytes()


def test_what_stands_in_the_store_is_seen_past_the_copies(shards: Path, tmp_path: Path) -> None:
    damaged = FaultyServer(Path(shutil.copytree(shards, tmp_path / "store")))
    cache = ShardCache(tmp_path / "cache", 10**9, Retry(tries=1))
    with serving(damaged):
        folder = ShardFolder.open(damaged.url, cache)
        assert verify(folder) == []
        tar = damaged.folder / folder.manifest.shards[0].name
        tar.write_bytes(bytes(tar.stat().st_size))
        assert verify(folder) == []
        with cache.fresh() as fresh:
            (found,) = verify(ShardFolder.open(damaged.url, fresh))
        assert found.shard == tar.name
    assert [path for path in cache.folder.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("cuts", [0, 6])
def test_a_stream_from_s3_is_the_local_one(s3: CuttingProxy, shards: Path, tmp_path: Path, cuts: int) -> None:
    folder = ShardFolder.open(S3_URL, ShardCache(tmp_path, 10**9, QUICK))
    assert folder.root == S3_URL
    s3.cuts = cuts
    assert_equal_batches(folder, ShardFolder.open(shards))
    assert s3.cuts == 0


@pytest.mark.usefixtures("s3")
def test_s3_without_the_shards_says_so(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10**9, Retry(sleep=_no_sleep))
    for url in (f"{S3_URL}/elsewhere", "s3://no-such-bucket/shards"):
        with pytest.raises(DataError, match=rf"^{url}/manifest.json: cannot be read \(not found\); want the URL"):
            ShardFolder.open(url, cache)


def _no_sleep(_: float) -> None:
    raise AssertionError("tried again")


@pytest.mark.parametrize(("status", "advice"), [("403", "credentials"), ("404", "distseg data pack")])
def test_a_refusal_is_not_asked_again(server: FaultyServer, tmp_path: Path, status: str, advice: str) -> None:
    server.faults = {"manifest.json": [status]}
    with pytest.raises(DataError, match=rf"^{server.url}/manifest.json: cannot be read .*{advice}"):
        ShardFolder.open(server.url, ShardCache(tmp_path, 10**9, Retry(sleep=_no_sleep)))
    assert server.gets == {"manifest.json": 1}


def test_a_store_that_stays_down_ends_in_one_line(server: FaultyServer, tmp_path: Path) -> None:
    folder = ShardFolder.open(server.url, ShardCache(tmp_path, 10**9, Retry(tries=3, first_s=0.01)))
    shard = folder.manifest.shards[0]
    server.faults = {shard.name: ["cut"] * 3}
    with pytest.raises(DataError) as caught:
        folder.open_shard(shard)
    message = str(caught.value)
    assert message.startswith(f"{server.url}/{shard.name}: cannot be read, 3 tries, last got: ")
    assert "\n" not in message
    assert server.gets[shard.name] == 3
    assert list(tmp_path.iterdir()) == []


OPEN_ALL = """
import hashlib, os, sys
from pathlib import Path
from distseg.data.cache import ShardCache
from distseg.data.manifest import ShardFolder
folder = ShardFolder.open(sys.argv[1], ShardCache(Path(sys.argv[2]), int(sys.argv[3])))
print("ready", flush=True)
sys.stdin.readline()
for shard in folder.manifest.shards[: int(sys.argv[4])]:
    with open(folder.open_shard(shard), "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
print("done", flush=True)
"""


@contextmanager
def reading_processes(number: int, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that open all shards of a URL one after the other, as soon as they are told to by a line."""
    command = [sys.executable, "-c", OPEN_ALL, *map(str, arguments)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def is_done(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "done\n" and process.wait() == 0


def test_however_many_processes_ask_each_shard_is_downloaded_once(
    server: FaultyServer, shards: Path, tmp_path: Path
) -> None:
    tars = [path.name for path in shards.glob("*.tar")]
    with reading_processes(4, server.url, tmp_path, 10**9, len(tars)) as processes:
        for process in processes:
            start(process)
        assert all(is_done(process) for process in processes)
    assert len(tars) > 5
    assert {name: server.gets[name] for name in tars} == dict.fromkeys(tars, 1)


def test_processes_that_share_a_small_cache_take_nothing_from_each_other(
    server: FaultyServer, shards: Path, tmp_path: Path
) -> None:
    tars = [path.stat().st_size for path in shards.glob("*.tar")]
    with reading_processes(3, server.url, tmp_path, max(tars) * 3 // 2, len(tars)) as processes:
        for process in processes:
            start(process)
        assert all(is_done(process) for process in processes)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * max(tars)  # what three may hold open


def test_another_process_goes_on_where_one_was_killed(server: FaultyServer, shards: Path, tmp_path: Path) -> None:
    first: Shard = ShardFolder.open(shards).manifest.shards[0]
    server.faults = {first.name: ["stall"]}
    with reading_processes(2, server.url, tmp_path, 10**9, 1) as (killed, waiting):
        start(killed)
        assert server.half_sent.wait(60)
        start(waiting)  # finds the other at it
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.3)
        assert server.gets[first.name] == 1
        os.kill(killed.pid, signal.SIGKILL)
        assert is_done(waiting)
    assert server.gets[first.name] == 2
    assert [path.name for path in tmp_path.iterdir()] == [first.sha256]
    assert (tmp_path / first.sha256).read_bytes() == (shards / first.name).read_bytes()


def test_the_commands_take_a_url(server: FaultyServer, shards: Path, tmp_path: Path) -> None:
    """One process runs them all: importing torch takes longer than they do."""
    model, home = tmp_path / "model.ts", tmp_path / "home"
    commands = [
        ["data", "info", server.url, "--json"],
        ["data", "verify", server.url, "--json"],
        ["train", str(REPOSITORY / "configs/smoke.yaml"), "train.epochs=1", "--data", server.url, "--local", "--json"],
        ["export", "RUN", "--out", str(model)],
        ["evaluate", str(model), "--data", server.url, "--json"],
    ]
    code = (
        "import os, sys\n"
        "from distseg.cli.main import main\n"
        f"for words in {commands!r}:\n"
        f"    words = [os.listdir({str(home / 'runs')!r})[0] if word == 'RUN' else word for word in words]\n"
        "    sys.argv = ['distseg', *words]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as end:\n"
        "        assert end.code in (0, None), (words, end.code)\n"
        "    print('====')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DISTSEG_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    info, verified, trained, _, evaluated, _ = done.stdout.split("====\n")
    local = ShardFolder.open(shards).manifest
    assert json.loads(info)["data_digest"] == local.data_digest
    assert json.loads(verified) == {"samples": 24, "bad": []}
    run = json.loads(trained)["run"]
    assert json.loads((home / "runs" / run / "record.json").read_text())["data"] == server.url
    assert json.loads(evaluated)["samples"] == local.samples["val"]
    tars = [shard.name for shard in local.shards]
    assert {name: server.gets[name] for name in tars} == dict.fromkeys(tars, 2)  # to verify, and for all others
    assert {path.name for path in (home / "cache/shards").iterdir()} >= {shard.sha256 for shard in local.shards}
