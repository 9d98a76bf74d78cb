"""Every error that distseg raises on purpose.

::

    DistsegError            anything the program can explain; exit code 1
    ├── InputError          the user can mend it; exit code 2
    │   ├── ConfigError     a YAML file or an override
    │   ├── DataError       a raw data set, a shard, a manifest
    │   ├── HomeError       a run or a study: missing, ambiguous, existing already
    │   ├── ClusterError    the cluster cannot hold what was asked for
    │   └── QueueError      a job that is missing or ambiguous, or cannot do what was asked
    ├── BackendError        the cluster that runs the queue's jobs does not answer
    ├── StoreError          the queue's store cannot be reached, read or written
    ├── FencedError         a write by somebody whose turn is over: an attempt, a dispatcher, a run; it changed nothing
    ├── BadSampleError      one sample that cannot be used (the stream replaces it and counts it)
    └── TrainingError       a run that cannot go on: NaN loss, too many bad samples
        ├── OutOfMemoryError  the batch does not fit; the message says what to try
        └── ParityError     an exported file that does not agree with the model it came from

A message names the thing, the value got, the value wanted and the next step, on one line.
"""


class DistsegError(Exception):
    """Root of the tree; the command line prints its message alone and exits with ``exit_code``."""

    exit_code = 1


class InputError(DistsegError):
    """The command, the config or the data asked for something that cannot be; nothing was written."""

    exit_code = 2


class ConfigError(InputError):
    """A config file or an override is wrong; the message names the file and the key."""


class DataError(InputError):
    """A raw data set, a shard or a manifest is not what it should be."""


class HomeError(InputError):
    """A run or a study is missing, ambiguous, or exists already."""


class ClusterError(InputError):
    """The cluster can never hold the workers that were asked for."""


class QueueError(InputError):
    """A job is missing or ambiguous, or its state does not allow what was asked."""


class BackendError(DistsegError):
    """The cluster that runs the queue's jobs does not answer; what was asked may or may not have happened."""


class StoreError(DistsegError):
    """The queue's store cannot be reached, read or written."""


class FencedError(DistsegError):
    """A write by an attempt, a dispatcher or a run whose turn is over was refused; it changed nothing."""


class BadSampleError(DistsegError):
    """One sample cannot be used; ``reason`` says why, without the sample's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TrainingError(DistsegError):
    """A run that cannot go on."""


class OutOfMemoryError(TrainingError):
    """A micro-batch does not fit into memory."""


class ParityError(TrainingError):
    """An exported file does not reproduce the model; it was not written."""
