"""States of jobs and of their attempts, and which may follow which; the store's triggers keep the same tables."""

from enum import StrEnum


class JobState(StrEnum):
    """What a job is doing, as its owner sees it."""

    QUEUED = "QUEUED"  # waits for its turn, for other jobs, or for its next attempt
    PAUSED = "PAUSED"  # would wait, but its owner holds it back
    STARTING = "STARTING"  # an attempt is claimed and on its way to a node
    RUNNING = "RUNNING"  # its command runs
    CANCELLING = "CANCELLING"  # was told to stop; its command may still be writing a checkpoint
    SUCCEEDED = "SUCCEEDED"  # its command ended with 0
    FAILED = "FAILED"  # its command ended otherwise, and no retry is left or would help
    TIMED_OUT = "TIMED_OUT"  # ran longer than its limit
    CANCELLED = "CANCELLED"  # by its owner, or because a job that it waits for did not succeed

    @property
    def over(self) -> bool:
        """Nothing more happens to the job unless somebody retries it."""
        return self in OVER


class AttemptState(StrEnum):
    """One try at running a job."""

    CLAIMED = "CLAIMED"  # resources are set aside for it
    LAUNCHED = "LAUNCHED"  # the cluster has accepted it
    RUNNING = "RUNNING"  # its process holds a lease and runs the command
    SUCCEEDED = "SUCCEEDED"  # the command ended with 0
    FAILED = "FAILED"  # the command ended otherwise, or could not be started
    LOST = "LOST"  # nobody renewed its lease: a dead node, driver or cluster
    PREEMPTED = "PREEMPTED"  # made room for a job of higher priority
    TIMED_OUT = "TIMED_OUT"  # the job's time limit passed
    CANCELLED = "CANCELLED"  # the job was cancelled

    @property
    def live(self) -> bool:
        """It holds resources."""
        return self in LIVE


OVER = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.TIMED_OUT, JobState.CANCELLED})
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CANCELLING})
"""States of a job with a live attempt."""
LIVE = frozenset({AttemptState.CLAIMED, AttemptState.LAUNCHED, AttemptState.RUNNING})
ENDS = frozenset(AttemptState) - LIVE

_J, _A = JobState, AttemptState

JOB_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    _J.QUEUED: frozenset({_J.PAUSED, _J.STARTING, _J.CANCELLED}),
    _J.PAUSED: frozenset({_J.QUEUED, _J.CANCELLED}),
    _J.STARTING: frozenset({_J.RUNNING, _J.CANCELLING, _J.QUEUED, *OVER}),
    _J.RUNNING: frozenset({_J.CANCELLING, _J.QUEUED, *OVER}),
    _J.CANCELLING: OVER,
    _J.SUCCEEDED: frozenset(),
    **dict.fromkeys((_J.FAILED, _J.TIMED_OUT, _J.CANCELLED), frozenset({_J.QUEUED})),  # `jobs retry`
}
ATTEMPT_TRANSITIONS: dict[AttemptState, frozenset[AttemptState]] = {
    _A.CLAIMED: frozenset({_A.LAUNCHED, _A.RUNNING, *ENDS}),  # RUNNING: its process was quicker than our note of it
    _A.LAUNCHED: frozenset({_A.RUNNING, *ENDS}),
    _A.RUNNING: ENDS,
    **dict.fromkeys(ENDS, frozenset()),
}
