"""What becomes of a job when an attempt ends: pure rules, and the sums of their delays.

=============================  ===========================  =======  =======================================
end of the attempt             the job                      charged  the next attempt after
=============================  ===========================  =======  =======================================
SUCCEEDED                      SUCCEEDED                    no       none
FAILED, code 2, 126, 127       FAILED: bad input, no such   yes      none: it would end the same way
                               program
FAILED, out of memory          FAILED                       yes      none: it would end the same way
FAILED, any other              QUEUED while retries last    yes      10 s, 20 s, 40 s, ... at most 600 s
LOST (node, driver, cluster)   QUEUED                       no       5 s, 10 s, 20 s, ... at most 300 s
PREEMPTED                      QUEUED                       no       0 s: its priority decides
TIMED_OUT                      TIMED_OUT                    no       none: it would run as long again
CANCELLED                      CANCELLED                    no       none
=============================  ===========================  =======  =======================================

A job that was told to cancel ends so whatever befalls its attempt, success alone excepted; the same of a time limit.
"""

from dataclasses import dataclass

from distseg.queue.models import Attempt, Job
from distseg.queue.states import AttemptState, JobState

FAILURE_DELAY_S, FAILURE_DELAY_MAX_S = 10.0, 600.0
LOSS_DELAY_S, LOSS_DELAY_MAX_S = 5.0, 300.0
HOPELESS_CODES = {2: "bad input", 126: "the program cannot be executed", 127: "no such program"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    end: AttemptState
    reason: str
    """In one line, for people."""
    exit_code: int | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What that makes of the job."""

    state: JobState
    """QUEUED, or one that is over."""
    reason: str
    delay_s: float = 0.0
    failures: int = 0
    """Attempts charged to the budget, this one included."""
    losses: int = 0


def judge(job: Job, attempt: Attempt, outcome: Outcome) -> Verdict:
    """The job's next state after the end of ``attempt``."""
    failures, losses = job.failures, job.losses
    end, reason = outcome.end, outcome.reason
    if end is AttemptState.SUCCEEDED:
        return Verdict(JobState.SUCCEEDED, reason, failures=failures, losses=losses)
    if job.state is JobState.CANCELLING or end is AttemptState.CANCELLED:
        return Verdict(JobState.CANCELLED, attempt.reason or reason, failures=failures, losses=losses)
    if end is AttemptState.TIMED_OUT or attempt.stop is AttemptState.TIMED_OUT:
        return Verdict(JobState.TIMED_OUT, attempt.reason or reason, failures=failures, losses=losses)
    if end is AttemptState.PREEMPTED:
        return Verdict(JobState.QUEUED, reason, failures=failures, losses=losses)
    if end is AttemptState.LOST:
        return Verdict(JobState.QUEUED, reason, loss_delay_s(losses + 1), failures, losses + 1)
    return _after_failure(outcome, failures + 1, losses, job.retries)


def _after_failure(outcome: Outcome, failures: int, losses: int, retries: int) -> Verdict:
    reason = outcome.reason
    hopeless = "out of memory" if outcome.out_of_memory else HOPELESS_CODES.get(outcome.exit_code or 0)
    if hopeless:
        return Verdict(JobState.FAILED, f"{reason}: {hopeless}; not retried", failures=failures, losses=losses)
    if failures <= retries:
        return Verdict(
            JobState.QUEUED, f"{reason}; retry {failures} of {retries}", failure_delay_s(failures), failures, losses
        )
    spent = f"; all {retries} retries used" if retries else ""
    return Verdict(JobState.FAILED, reason + spent, failures=failures, losses=losses)


def failure_delay_s(failures: int) -> float:
    """``min(10 * 2 ** (failures - 1), 600)`` seconds after that many real failures."""
    return _doubled(FAILURE_DELAY_S, failures, FAILURE_DELAY_MAX_S)


def loss_delay_s(losses: int) -> float:
    """``min(5 * 2 ** (losses - 1), 300)`` seconds after that many lost attempts."""
    return _doubled(LOSS_DELAY_S, losses, LOSS_DELAY_MAX_S)


def is_due(job: Job, now: float) -> bool:
    """The next attempt may start. A wait longer than any was made before the clock was set back; it counts as over."""
    return job.not_before <= now or job.not_before > now + max(FAILURE_DELAY_MAX_S, LOSS_DELAY_MAX_S)


def _doubled(first_s: float, times: int, at_most_s: float) -> float:
    return float(min(first_s * 2 ** min(times - 1, 30), at_most_s))
