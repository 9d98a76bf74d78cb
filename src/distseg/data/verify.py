"""Does a folder of shards hold what was packed? Every digest, and every sample through the trainer's own reader."""

from collections.abc import Callable, Iterator

from distseg.data.digests import data_digest, file_digest, split_digest
from distseg.data.manifest import BadSample, Shard, ShardFolder, index_path
from distseg.data.stream import ShardReader
from distseg.errors import BadSampleError, DataError

WHOLE = "*"
"""In the place of a key: not one sample is wrong but a whole shard, its index or the manifest."""


def verify(folder: ShardFolder, progress: Callable[[int, int], None] | None = None) -> list[BadSample]:
    """All that is wrong, shard after shard; empty when all is well.

    Compares the sha256 of each tar and index, then reads every sample: CRC of its members, decoding, mask size against
    image size, labels in range. When the files are those packed, the digests of data and split are computed again.
    ``progress`` is called with (samples done, samples in all).
    """
    total, done = sum(folder.manifest.samples.values()), 0
    bad: list[BadSample] = []
    for shard in folder.manifest.shards:
        bad += _files(folder, shard)
        for found in _samples(folder, shard):
            bad += found
            done += 1
            if progress is not None:
                progress(min(done, total), total)
    return bad or list(_manifest(folder))


def _files(folder: ShardFolder, shard: Shard) -> Iterator[BadSample]:
    tar = folder.shard_path(shard)
    for path, wanted in ((tar, shard.sha256), (index_path(tar), shard.index_sha256)):
        try:
            got = file_digest(path)
        except OSError as error:
            yield BadSample(shard=shard.name, key=WHOLE, reason=f"{path.name} cannot be read ({error.strerror})")
            continue
        if got != wanted:
            reason = f"{path.name} has sha256 {got[:12]}..., manifest says {wanted[:12]}..."
            yield BadSample(shard=shard.name, key=WHOLE, reason=reason)


def _samples(folder: ShardFolder, shard: Shard) -> Iterator[list[BadSample]]:
    """For each sample in turn, what is wrong with it; stops where the shard's files cannot be opened at all."""
    try:
        reader = ShardReader(folder, [shard], keep=lambda entry: True)
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
