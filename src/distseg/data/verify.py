"""Does a folder of shards hold what was packed? Every digest, and every sample through the trainer's own reader."""

import hashlib
import os
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

from distseg.data.digests import data_digest, split_digest
from distseg.data.manifest import BadSample, Shard, ShardFolder, index_path
from distseg.data.stream import ShardReader
from distseg.errors import BadSampleError, DataError

WHOLE = "*"
"""In the place of a key: not one sample is wrong but a whole shard, its index or the manifest."""


def verify(folder: ShardFolder, progress: Callable[[int, int], None] | None = None) -> list[BadSample]:
    """All that is wrong, shard after shard; empty when all is well.

    Compares the sha256 of each tar and index, walks through the tar's headers (a reader that has no index depends on
    them), then reads every sample: CRC of its members, decoding, sizes, labels in range. When the files are those
    packed, the digests of data and split are computed again.
    ``progress`` is called with (samples done, samples in all).
    """
    total, done = sum(folder.manifest.samples.values()), 0
    bad: list[BadSample] = []
    for shard in folder.manifest.shards:
        files = list(_files(folder, shard))
        bad += files
        bad += _headers(folder, shard)
        for found in _samples(folder, shard):
            bad += [] if found and files and found[0].key == WHOLE else found  # the same, said again
            done += 1
            if progress is not None:
                progress(min(done, total), total)
    return bad or list(_manifest(folder))


def _files(folder: ShardFolder, shard: Shard) -> Iterator[BadSample]:
    for name, open_file, wanted in (
        (shard.name, folder.open_shard, shard.sha256),
        (index_path(Path(shard.name)).name, folder.open_index, shard.index_sha256),
    ):
        try:
            with open(open_file(shard), "rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, DataError) as error:
            yield BadSample(shard=shard.name, key=WHOLE, reason=str(error))
            continue
        if got != wanted:
            reason = f"{name} has sha256 {got[:12]}..., manifest says {wanted[:12]}..."
            yield BadSample(shard=shard.name, key=WHOLE, reason=reason)


def _headers(folder: ShardFolder, shard: Shard) -> Iterator[BadSample]:
    """Headers that are damaged, and members that the index does not know: other files, links, paths that leave."""
    try:
        wanted = {
            member.offset - tarfile.BLOCKSIZE: (entry.key, f"{entry.key}.{ending}", member.length)
            for entry in folder.entries(shard)
            for ending, member in entry.members.items()
        }
        file = folder.open_shard(shard)
    except DataError:
        return  # the other checks have said so
    try:
        starts = sorted(wanted)
        offset, size = 0, os.fstat(file).st_size
        while offset < size:
            key, name, length = wanted.get(offset, (WHOLE, "", 0))
            later = bisect_right(starts, offset)
            next_known = starts[later] if later < len(starts) else size
            header = os.pread(file, tarfile.BLOCKSIZE, offset)
            blocks = 0
            if not any(header):  # as at the end
                if name:
                    yield BadSample(shard=shard.name, key=key, reason=f"tar has nothing where index has '{name}'")
            else:
                try:
                    found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
                except tarfile.HeaderError as error:
                    yield BadSample(shard=shard.name, key=key, reason=f"damaged tar header at byte {offset} ({error})")
                    offset = next_known
                    continue
                blocks = max(0, -(-found.size // tarfile.BLOCKSIZE))
                if not name:
                    reason = f"tar has {_described(found)}, which the index does not know"
                    yield BadSample(shard=shard.name, key=WHOLE, reason=reason)
                elif (found.name, found.size, found.isreg()) != (name, length, True):
                    reason = f"tar has {_described(found)} where index has '{name}'"
                    yield BadSample(shard=shard.name, key=key, reason=reason)
            offset = min(offset + tarfile.BLOCKSIZE * (1 + blocks), next_known)
    finally:
        os.close(file)


def _described(member: tarfile.TarInfo) -> str:
    kind = "file" if member.isreg() else "link" if member.issym() or member.islnk() else "member"
    return f"{kind} {member.name[:100]!r}"


def _samples(folder: ShardFolder, shard: Shard) -> Iterator[list[BadSample]]:
    """For each sample in turn, what is wrong with it; stops where the shard's files cannot be opened at all."""
    try:
        reader = ShardReader(folder, [shard])
        for position in range(len(reader)):
            try:
                reader.read(position)
                yield []
            except BadSampleError as error:
                yield [BadSample(shard=shard.name, key=reader.place(position)[1].key, reason=error.reason)]
    except DataError as error:
        yield [BadSample(shard=shard.name, key=WHOLE, reason=str(error))]


def _manifest(folder: ShardFolder) -> Iterator[BadSample]:
    manifest = folder.manifest
    places = [(entry.key, shard.split, entry.fold) for shard in manifest.shards for entry in folder.entries(shard)]
    for name, got, wanted in (
        ("data_digest", data_digest(manifest.shards), manifest.data_digest),
        ("split_digest", split_digest(places), manifest.split_digest),
    ):
        if got != wanted:
            yield BadSample(shard=None, key=WHOLE, reason=f"{name} is {wanted[:12]}..., the shards give {got[:12]}...")
