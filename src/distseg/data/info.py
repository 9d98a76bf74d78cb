"""What a folder of shards holds, in numbers; read from the manifest alone."""

import csv
import io
from typing import Any

from distseg.data.manifest import ShardFolder


def info(folder: ShardFolder) -> dict[str, Any]:
    """The fields of ``distseg data info --json``.

    ``class_pixels`` has one number a class, in the order of ``classes``; ignored pixels are in none of them.
    """
    manifest = folder.manifest
    return {
        "samples": sum(manifest.samples.values()),
        "groups": len(manifest.groups),
        "splits": manifest.samples,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "classes": list(manifest.classes),
        "class_pixels": [manifest.class_pixels[name] for name in manifest.classes],
        "data_digest": manifest.data_digest,
        "split_digest": manifest.split_digest,
        "split_leaky": manifest.split_leaky,
        "vanished_instances": manifest.vanished_instances,
        "bad": [sample.model_dump() for sample in manifest.bad],
    }


def class_counts_csv(folder: ShardFolder) -> str:
    """A table ``class,pixels,fraction``: a line for each class and, last, one for ignored pixels if any may be."""
    pixels = folder.manifest.class_pixels
    total = max(1, sum(pixels.values()))  # instance data may have no object at all
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", "pixels", "fraction"])
    table.writerows([name, number, f"{number / total:.6f}"] for name, number in pixels.items())
    return text.getvalue()
