"""Whether a config and its data speak of the same task."""

from distseg.data.manifest import Manifest
from distseg.errors import ConfigError


def check_task(task: str, manifest: Manifest) -> None:
    """ConfigError when shards are packed for another task than the config's."""
    if manifest.task != task:
        raise ConfigError(
            f"task: got '{task}', but the shards are for '{manifest.task}' with {len(manifest.classes)} classes; "
            f"use a config of task '{manifest.task}', or other shards"
        )
