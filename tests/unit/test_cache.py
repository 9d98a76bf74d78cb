"""Copies of remote shards: one download, right bytes, room made in order, nothing taken from a reader."""

import errno
import fcntl
import hashlib
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from distseg.data import remote
from distseg.data.cache import ShardCache
from distseg.data.manifest import Manifest, SampleEntry, Shard, ShardFolder, is_url, locate
from distseg.data.remote import Retry
from distseg.errors import DataError, HomeError
from distseg.home import Home


def no_sleep(_: float) -> None:
    raise AssertionError("waited, although nothing was to be waited for")


class Store:
    """A folder of fsspec's memory file system, of this test alone."""

    def __init__(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}"
        self.system = fsspec.filesystem("memory")

    def put(self, name: str, data: bytes) -> tuple[str, str]:
        """(URL, sha256) of the new file."""
        self.system.pipe_file(f"{self.url}/{name}", data)
        return f"{self.url}/{name}", hashlib.sha256(data).hexdigest()

    def remove(self) -> None:
        self.system.rm(self.url, recursive=True)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    """Of 1000 bytes; it may not wait."""
    return ShardCache(tmp_path / "cache", 1000, Retry(sleep=no_sleep))


def content(file: int) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def held(cache: ShardCache) -> int:
    """Bytes in the cache's folder."""
    return sum(path.stat().st_size for path in cache.folder.iterdir())


def test_a_file_is_downloaded_once_and_shared_by_its_digest(store: Store, cache: ShardCache) -> None:
    url, digest = store.put("a.tar", b"some bytes")
    assert content(cache.open(url, digest)) == b"some bytes"
    store.remove()
    assert content(cache.open(url, digest)) == b"some bytes"
    assert content(cache.open("memory://another/data/set.tar", digest)) == b"some bytes"
    assert [path.name for path in cache.folder.iterdir()] == [digest]


def test_other_bytes_are_asked_for_again(store: Store, tmp_path: Path) -> None:
    url, digest = store.put("a.tar", b"right")
    store.put("a.tar", b"wrong")
    waits: list[float] = []

    def mend(seconds: float) -> None:
        waits.append(seconds)
        store.put("a.tar", b"right")

    cache = ShardCache(tmp_path, 1000, Retry(sleep=mend))
    assert content(cache.open(url, digest)) == b"right"
    assert len(waits) == 1


def test_bytes_that_stay_wrong_are_refused_and_not_kept(store: Store, tmp_path: Path) -> None:
    url, _ = store.put("a.tar", b"wrong")
    waits: list[float] = []
    cache = ShardCache(tmp_path, 1000, Retry(sleep=waits.append))
    with pytest.raises(
        DataError, match=rf"{url}.*sha256 8810ad581e59\.{{3}} twice, manifest says 0{{12}}\.{{3}}\); want"
    ):
        cache.open(url, "0" * 64)
    assert len(waits) == 1
    assert list(tmp_path.iterdir()) == []


def test_waits_double_and_are_spread() -> None:
    waits: list[float] = []

    def fails() -> None:
        raise ConnectionResetError("cut off")

    for _ in range(20):
        with pytest.raises(DataError, match=r"^memory://x: cannot be read, 5 tries, last got: cut off; see whether"):
            Retry(tries=5, first_s=2, sleep=waits.append)("memory://x", fails)
    rounds = [waits[first : first + 4] for first in range(0, 80, 4)]
    assert len(waits) == 80
    assert all(1 <= a <= 2 <= b <= 4 <= c <= 8 <= d <= 16 for a, b, c, d in rounds)
    assert len({a for a, *_ in rounds}) > 10


class Status(Exception):
    """As aiohttp's ClientResponseError and gcsfs's HttpError, which have it under different names."""

    def __init__(self, **status: int) -> None:
        self.__dict__.update(status)
        super().__init__(f"answered {status}")


class NoCredentialsError(Exception):
    """Named as botocore's."""


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (PermissionError("Access Denied"), "credentials"),
        (Status(status=401), "credentials"),
        (Status(code=403), "credentials"),
        (NoCredentialsError("none found"), "credentials"),
        (FileNotFoundError("x"), "not found.*distseg data pack"),
        (Status(status=400), "distseg data pack"),
        (ImportError("Install s3fs"), r"distseg\[s3\]"),
        (ValueError("Protocol not known: abc"), "Protocol not known: abc.*want the URL"),
        (OSError(errno.ENOSPC, "No space left on device"), "DISTSEG_SHARD_CACHE_BYTES"),
    ],
    ids=str,
)
def test_what_cannot_pass_is_said_at_once(error: Exception, advice: str) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(DataError, match=rf"^memory://x: cannot be read \(.*{advice}"):
        Retry(sleep=no_sleep)("memory://x", fails)


@pytest.mark.parametrize(
    "error",
    [Status(status=503), Status(status=429), Status(code=500), TimeoutError(), OSError(errno.EBUSY, "SlowDown")],
)
def test_what_may_pass_is_asked_for_again(error: Exception) -> None:
    answers: list[Exception | str] = [error, error, "here"]

    def ask() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert Retry(tries=3, sleep=lambda _: None)("memory://x", ask) == "here"


def test_the_least_recently_opened_leave_first(store: Store, cache: ShardCache) -> None:
    files = {name: store.put(name, name.encode() * 400) for name in "abcd"}  # room for two of four

    def open_and_close(name: str) -> None:
        os.close(cache.open(*files[name], size=400))
        assert held(cache) <= 1000

    def kept() -> str:
        return "".join(name for name, (_, digest) in files.items() if (cache.folder / digest).exists())

    for opened, expected in (("a", "a"), ("b", "ab"), ("a", "ab"), ("c", "ac"), ("d", "cd"), ("c", "cd"), ("b", "bc")):
        open_and_close(opened)
        assert kept() == expected


def test_what_is_open_is_not_evicted(store: Store, cache: ShardCache) -> None:
    first = store.put("a", b"a" * 900)
    reading = cache.open(*first, size=900)
    for name in "bc":
        os.close(cache.open(*store.put(name, name.encode() * 900), size=900))
    assert (cache.folder / first[1]).exists()
    assert held(cache) == 1800  # the open one, and the newest
    assert os.pread(reading, 2000, 0) == b"a" * 900
    os.close(reading)
    os.close(cache.open(*store.put("d", b"d" * 900), size=900))
    assert not (cache.folder / first[1]).exists()
    assert held(cache) == 900


def test_two_readers_of_one_process_hold_a_copy_each_for_itself(store: Store, cache: ShardCache) -> None:
    first = store.put("a", b"a" * 900)
    one, two = cache.open(*first), cache.open(*first)
    os.close(one)
    os.close(cache.open(*store.put("b", b"b" * 900), size=900))
    assert (cache.folder / first[1]).exists()
    os.close(two)


def test_a_killed_download_is_begun_anew(store: Store, cache: ShardCache) -> None:
    url, digest = store.put("a", b"whole")
    cache.folder.mkdir()
    (cache.folder / f"{digest}.part").write_bytes(b"longer than the whole, and wrong")
    assert content(cache.open(url, digest)) == b"whole"
    assert [path.name for path in cache.folder.iterdir()] == [digest]


@pytest.mark.parametrize("alive", [True, False])
def test_an_unfinished_copy_is_evicted_unless_its_process_lives(store: Store, cache: ShardCache, alive: bool) -> None:
    cache.folder.mkdir()
    part = cache.folder / f"{'5' * 64}.part"
    part.write_bytes(bytes(500))
    with open(part) as downloading:
        if alive:
            fcntl.flock(downloading, fcntl.LOCK_EX)
        os.close(cache.open(*store.put("a", b"a" * 900), size=900))
        assert part.exists() == alive


def test_the_second_waits_for_the_first(store: Store, cache: ShardCache) -> None:
    url, digest = store.put("a", b"whole")
    cache.folder.mkdir()
    got: list[bytes] = []
    second = threading.Thread(target=lambda: got.append(content(cache.open(url, digest))))
    with open(cache.folder / f"{digest}.part", "wb") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second.start()
        second.join(0.2)
        assert second.is_alive()
        assert got == []
    second.join(10)
    assert got == [b"whole"]


def test_other_files_in_the_folder_stay(store: Store, cache: ShardCache) -> None:
    cache.folder.mkdir()
    (cache.folder / "holiday.jpg").write_bytes(bytes(5000))
    (cache.folder / ("a" * 64)).write_bytes(bytes(5000))
    os.close(cache.open(*store.put("b", b"b"), size=1))
    assert (cache.folder / "holiday.jpg").exists()
    assert not (cache.folder / ("a" * 64)).exists()


def test_a_folder_that_cannot_be_used_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = ShardCache(tmp_path / "file" / "cache", 1000)
    with pytest.raises(DataError, match=r"file/cache: cannot hold copies .*; set DISTSEG_SHARD_CACHE to a folder"):
        cache.open(*store.put("a", b"a"))


def test_the_home_says_where_and_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTSEG_HOME", str(tmp_path))
    assert ShardCache.of(Home.from_environment()) == ShardCache(tmp_path / "cache" / "shards", 50 * 2**30)
    monkeypatch.setenv("DISTSEG_SHARD_CACHE", str(tmp_path / "disk"))
    monkeypatch.setenv("DISTSEG_SHARD_CACHE_BYTES", "1000")
    assert ShardCache.of(Home.from_environment()) == ShardCache(tmp_path / "disk", 1000)
    monkeypatch.setenv("DISTSEG_SHARD_CACHE_BYTES", "1 GB")
    with pytest.raises(HomeError, match="DISTSEG_SHARD_CACHE_BYTES: got '1 GB', want a whole number of bytes"):
        Home.from_environment()


TAR, INDEX = "train-000000.tar", "train-000000.index.jsonl"


def small_folder(put: Callable[[str, bytes], object], **changed: object) -> None:
    """Shards of one sample, whose tar is not looked into: manifest, index and tar are handed to ``put``."""
    entry = SampleEntry(key="k", group="g", fold=None, source="k.jpg", size=(1, 1), original_size=(1, 1), members={})
    tar, index = b"bytes of a tar", entry.model_dump_json().encode() + b"\n"
    shard = Shard(
        name=TAR,
        split="train",
        samples=1,
        bytes=len(tar),
        sha256=hashlib.sha256(tar).hexdigest(),
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    manifest = Manifest(
        task="binary",
        layout="carvana",
        classes=("background", "car"),
        ignore_label=None,
        size=(1, 1),
        mask_encoding="png",
        shards=(shard.model_copy(update=changed),),
        class_pixels={"background": 1, "car": 0},
        groups={},
        folds=None,
        seed=0,
        data_digest="",
        split_digest="",
    )
    put(TAR, tar)
    put(INDEX, index)
    put("manifest.json", manifest.model_dump_json().encode())


def test_a_url_reads_as_a_local_folder_does(store: Store, cache: ShardCache, tmp_path: Path) -> None:
    small_folder(store.put)
    small_folder(lambda name, data: (tmp_path / name).write_bytes(data))
    for root in (store.url, f"{store.url}/", tmp_path, str(tmp_path), f"file://{tmp_path}"):
        folder = ShardFolder.open(root, cache)
        (shard,) = folder.manifest.shards
        assert content(folder.open_shard(shard)) == b"bytes of a tar"
        assert [entry.key for entry in folder.entries(shard)] == ["k"]
    assert len(list(cache.folder.iterdir())) == 2  # tar and index, of all three URLs


def test_a_remote_folder_travels_to_other_processes(store: Store, cache: ShardCache) -> None:
    small_folder(store.put)
    cache = ShardCache(cache.folder, cache.bytes_max)
    folder = pickle.loads(pickle.dumps(ShardFolder.open(store.url, cache)))
    assert content(folder.open_shard(folder.manifest.shards[0])) == b"bytes of a tar"


def test_a_local_folder_is_read_where_it_is_without_fsspec(tmp_path: Path) -> None:
    small_folder(lambda name, data: (tmp_path / name).write_bytes(data))
    code = (
        "import sys; from pathlib import Path; from distseg.data.cache import ShardCache\n"
        "from distseg.data.manifest import ShardFolder\n"
        f"folder = ShardFolder.open({str(tmp_path)!r}, ShardCache(Path('/nowhere'), 1))\n"
        "shard = folder.manifest.shards[0]\n"
        "print(len(open(folder.open_shard(shard), 'rb').read()), len(folder.entries(shard)))\n"
        "print(*{'fsspec', 'aiohttp'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "14 1\n\n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../train-000000.tar"),
        ("name", "/etc/train-000000.tar"),
        ("name", "train-000000.tar/../../x"),
        ("sha256", "../../.bashrc"),
        ("index_sha256", "A" * 64),
    ],
)
def test_a_manifest_leads_nowhere_else(store: Store, cache: ShardCache, field: str, value: str) -> None:
    small_folder(store.put, **{field: value})
    with pytest.raises(DataError, match=rf"damaged manifest \(shards\.0\.{field}: .*got '{value}'\)"):
        ShardFolder.open(store.url, cache)


def test_a_url_without_a_cache_is_refused(store: Store) -> None:
    small_folder(store.put)
    with pytest.raises(DataError, match="want a local folder"):
        ShardFolder.open(store.url)


def test_a_missing_manifest_is_named(store: Store, cache: ShardCache, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^{store.url}/manifest.json: cannot be read \(not found\); want the URL"):
        ShardFolder.open(store.url, cache)
    with pytest.raises(DataError, match=rf"^{tmp_path}/manifest.json: cannot be read \(No such file.*data pack"):
        ShardFolder.open(tmp_path)


def test_urls_stay_and_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("s3://bucket/a/../shards/") == "s3://bucket/a/../shards"
    assert locate("a/../shards") == tmp_path / "shards"
    assert [is_url(place) for place in ("s3://b", "simplecache::s3://b", "shards", "/a//b", tmp_path)] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_whole_file_is_read(store: Store) -> None:
    url, _ = store.put("manifest.json", b"{}")
    assert remote.read(url, Retry(sleep=no_sleep)) == b"{}"
