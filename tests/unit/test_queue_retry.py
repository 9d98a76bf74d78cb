"""What becomes of a job when an attempt ends."""

import pytest
from test_queue_admission import attempt, job

from distseg.queue.retry import Outcome, failure_delay_s, judge, loss_delay_s
from distseg.queue.states import (
    ATTEMPT_TRANSITIONS,
    ENDS,
    JOB_TRANSITIONS,
    LIVE,
    OVER,
    AttemptState,
    JobState,
)


def test_delays() -> None:
    assert [failure_delay_s(n) for n in (1, 2, 3, 6, 7, 8, 10_000)] == [10, 20, 40, 320, 600, 600, 600]
    assert [loss_delay_s(n) for n in (1, 2, 6, 7, 10_000)] == [5, 10, 160, 300, 300]


@pytest.mark.parametrize(
    ("outcome", "retries", "state", "failures", "losses", "delay_s"),
    [
        (Outcome(AttemptState.SUCCEEDED, "", 0), 3, "SUCCEEDED", 0, 0, 0),
        (Outcome(AttemptState.FAILED, "", 1), 0, "FAILED", 1, 0, 0),
        (Outcome(AttemptState.FAILED, "", 1), 3, "QUEUED", 1, 0, 10),
        (Outcome(AttemptState.FAILED, "", -9), 3, "QUEUED", 1, 0, 10),
        (Outcome(AttemptState.FAILED, "", None), 3, "QUEUED", 1, 0, 10),  # could not be started
        (Outcome(AttemptState.FAILED, "", 2), 3, "FAILED", 1, 0, 0),  # bad input
        (Outcome(AttemptState.FAILED, "", 127), 3, "FAILED", 1, 0, 0),
        (Outcome(AttemptState.FAILED, "", 1, out_of_memory=True), 3, "FAILED", 1, 0, 0),
        (Outcome(AttemptState.LOST, ""), 0, "QUEUED", 0, 1, 5),
        (Outcome(AttemptState.PREEMPTED, "", -15), 0, "QUEUED", 0, 0, 0),
        (Outcome(AttemptState.TIMED_OUT, "", -15), 3, "TIMED_OUT", 0, 0, 0),
        (Outcome(AttemptState.CANCELLED, "", -15), 3, "CANCELLED", 0, 0, 0),
    ],
)
def test_rules(outcome: Outcome, retries: int, state: str, failures: int, losses: int, delay_s: float) -> None:
    one = job(1, retries=retries)
    verdict = judge(one, attempt(one, ()), outcome)
    assert (verdict.state, verdict.failures, verdict.losses, verdict.delay_s) == (state, failures, losses, delay_s)


def test_transitions_lead_everywhere_and_ends_are_ends() -> None:
    assert JOB_TRANSITIONS.keys() == set(JobState)
    assert ATTEMPT_TRANSITIONS.keys() == set(AttemptState) == LIVE | ENDS
    assert all(ATTEMPT_TRANSITIONS[end] == frozenset() for end in ENDS)
    assert {state for state in JobState if state.over} == OVER
    assert set().union(*JOB_TRANSITIONS.values()) == set(JobState)
