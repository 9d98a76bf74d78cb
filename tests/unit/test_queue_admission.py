"""Who runs next, on clusters small enough to count by hand; the promises to the head of the line, by brute force."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.errors import QueueError
from distseg.queue.admission import NEVER, Plan, Wait, plan
from distseg.queue.explain import explain
from distseg.queue.models import Attempt, Cluster, Job, JobSpec, Node, Policy, Share, Snapshot, name_of
from distseg.queue.placement import Shape, empty, place, without
from distseg.queue.states import AttemptState, JobState

NOW = 1000.0


def job(seq: int, **options: Any) -> Job:
    """A waiting job ``j<seq>``; whatever a JobSpec takes, and ``not_before``."""
    not_before = options.pop("not_before", 0.0)
    spec = JobSpec(("true",), **{"owner": "ada", "cpus": 0.0 if options.get("gpus") else 1.0, **options})
    return Job(
        seq=seq,
        id=f"j{seq}",
        name=f"n{seq}",
        owner=spec.owner,
        command=spec.command,
        working_dir=None,
        priority=spec.priority,
        gpus=spec.gpus,
        cpus=spec.cpus,
        workers=spec.workers,
        alone=spec.alone,
        retries=spec.retries,
        timeout_s=spec.timeout_s,
        state=JobState.QUEUED,
        reason="exit code 1",
        attempt=0,
        failures=0,
        losses=0,
        not_before=not_before,
        submitted_at=NOW - 100 + seq,
        started_at=None,
        finished_at=None,
    )


def attempt(of: Job, placement: tuple[Share, ...], begun: float = NOW, stop_at: float | None = None) -> Attempt:
    return Attempt(
        job_id=of.id,
        number=1,
        state=AttemptState.RUNNING,
        placement=placement,
        lease_s=30,
        grace_s=10,
        lease_until=NOW + 30,
        renewals=0,
        stop=None if stop_at is None else AttemptState.PREEMPTED,
        stop_at=stop_at,
        claimed_at=begun,
        launched_at=begun,
        running_at=begun,
        finished_at=None,
        exit_code=None,
        reason=None,
        host="here",
    )


def running(cluster: Cluster, *jobs: Job) -> tuple[tuple[Job, Attempt], ...]:
    """Jobs placed one after the other on an empty cluster, each begun at ``NOW`` minus its number."""
    room = empty(cluster.nodes)
    live = []
    for one in jobs:
        placement = place(Shape.of(one), room)
        assert placement is not None, "does not fit"
        room = without(room, placement)
        live.append((one, attempt(one, placement, begun=NOW - one.seq)))
    return tuple(live)


def decide(cluster: Cluster, waiting: Sequence[Job], live: tuple[tuple[Job, Attempt], ...] = ()) -> Plan:
    """The plan, which never takes more than there is."""
    in_line = tuple(sorted(waiting, key=lambda one: (-one.priority, one.seq)))
    decided = plan(Snapshot(NOW, in_line, live, 0), cluster)
    shares = [share for _, one in live for share in one.placement]
    assert_within(cluster, [*shares, *(share for _, placement in decided.start for share in placement)])
    return decided


def assert_within(cluster: Cluster, shares: Sequence[Share]) -> None:
    for node in cluster.nodes:
        here = [share for share in shares if share.node == node.name]
        assert sum(share.cpus for share in here) <= node.cpus + 1e-6
        for index in range(node.gpus):
            assert sum(part for share in here for i, part in share.gpus if i == index) <= 1 + 1e-6


def started(decided: Plan) -> list[str]:
    return [one.id for one, _ in decided.start]


ONE = Cluster((Node("a", 8, 4),), seen_at=NOW)
TWO = Cluster((Node("a", 4, 2), Node("b", 4, 2)), seen_at=NOW)
PLAIN = Cluster((Node("a", 8),), seen_at=NOW)


# the line


def test_priority_then_submission() -> None:
    jobs = [job(1, gpus=2), job(2, gpus=2, priority=1), job(3, gpus=2)]
    decided = decide(ONE, jobs)
    assert started(decided) == ["j2", "j1"]
    assert decided.waits == {"j3": Wait.HEAD}


def test_a_gang_starts_as_a_whole_or_waits() -> None:
    live = running(ONE, job(1, gpus=1))
    assert decide(ONE, [job(2, gpus=4)], live).waits == {"j2": Wait.HEAD}
    assert started(decide(ONE, [job(2, gpus=3)], live)) == ["j2"]


def test_cpus_count_too() -> None:
    live = running(ONE, job(1, gpus=1, cpus=7))
    assert decide(ONE, [job(2, gpus=1, cpus=2)], live).waits == {"j2": Wait.HEAD}


def test_fractions_share_a_gpu_and_never_straddle_two() -> None:
    small = Cluster((Node("a", 9, 2),))
    live = running(small, job(1, gpus=0.6), job(2, gpus=0.6))  # 0.4 of each GPU is free
    assert decide(small, [job(3, gpus=0.8)], live).waits == {"j3": Wait.HEAD}
    decided = decide(small, [job(3, gpus=0.4), job(4, gpus=0.4), job(5, gpus=0.1)], live)
    assert started(decided) == ["j3", "j4"]
    assert decide(small, [job(3, gpus=1 / 3, cpus=0.1), *(job(n, gpus=1 / 3) for n in (4, 5, 6, 7, 8, 9))]).waits == {
        "j9": Wait.HEAD  # six thirds fill two GPUs
    }


def test_a_worker_fits_on_one_node() -> None:
    assert started(decide(TWO, [job(1, gpus=4, cpus=8)])) == ["j1"]  # four workers of one GPU and two CPUs
    assert decide(TWO, [job(1, gpus=4, cpus=8, workers=1)]).waits == {"j1": Wait.TOO_LARGE}
    assert decide(TWO, [job(1, gpus=3, cpus=9)]).waits == {"j1": Wait.TOO_LARGE}  # three CPUs each: one a node
    assert started(decide(TWO, [job(1, gpus=4, cpus=8, workers=2)])) == ["j1"]
    assert decide(TWO, [job(1, cpus=5, alone=True)]).waits == {"j1": Wait.TOO_LARGE}


def test_workers_go_where_they_leave_least_behind() -> None:
    live = running(TWO, job(1, gpus=1))
    used = live[0][1].placement[0].node
    ((_, placement),) = decide(TWO, [job(2, gpus=1)], live).start
    assert placement[0].node == used
    mixed = Cluster((Node("gpus", 4, 2), Node("plain", 4)))
    ((_, placement),) = decide(mixed, [job(1, cpus=1)]).start
    assert placement[0].node == "plain"


def test_what_the_cluster_can_never_hold_keeps_nobody_waiting() -> None:
    decided = decide(ONE, [job(1, gpus=5, priority=9), job(2, gpus=4)])
    assert (started(decided), decided.waits) == (["j2"], {"j1": Wait.TOO_LARGE})


def test_a_node_that_went_takes_its_jobs_out_of_the_sum() -> None:
    live = running(TWO, job(1, gpus=4))
    left = Cluster((Node("b", 4, 2), Node("c", 4, 1)))
    assert decide(left, [job(2, gpus=1)], live).start[0][1][0].node == "c"


def test_backoff_and_the_cap_per_owner_keep_nobody_waiting() -> None:
    capped = Cluster(ONE.nodes, Policy(max_per_owner=1))
    live = running(capped, job(1, gpus=1))
    decided = decide(capped, [job(2, gpus=1), job(3, gpus=1, owner="bob"), job(4, gpus=1, owner="bob")], live)
    assert started(decided) == ["j3"]
    assert decided.waits == {"j2": Wait.OWNER, "j4": Wait.OWNER}
    decided = decide(ONE, [job(1, not_before=NOW + 1), job(2)])
    assert (started(decided), decided.waits) == (["j2"], {"j1": Wait.BACKOFF})


# passing the head of the line


def test_a_job_that_ends_before_the_head_can_start_may_pass() -> None:
    live = running(ONE, job(1, gpus=3, timeout_s=101))  # begun a second ago: ends at NOW + 100
    decided = decide(ONE, [job(2, gpus=4), job(3, gpus=1, timeout_s=100), job(4, gpus=1, timeout_s=100)], live)
    assert (decided.head and decided.head.id, decided.head_start) == ("j2", NOW + 100)
    assert (started(decided), decided.waits) == (["j3"], {"j2": Wait.HEAD, "j4": Wait.BUSY})
    for options in ({"timeout_s": 100.5}, {}):
        decided = decide(ONE, [job(2, gpus=4), job(3, gpus=1, **options)], live)
        assert decided.waits == {"j2": Wait.HEAD, "j3": Wait.BEHIND}


def test_a_job_that_fits_beside_the_head_may_pass() -> None:
    live = running(ONE, job(1, gpus=3, timeout_s=101))
    decided = decide(ONE, [job(2, gpus=3, cpus=3), job(3, gpus=1, cpus=5)], live)  # 3 + 1 of 4, 3 + 5 of 8
    assert started(decided) == ["j3"]
    decided = decide(ONE, [job(2, gpus=3, cpus=3), job(3, gpus=1, cpus=6)], live)
    assert decided.waits["j3"] is Wait.BEHIND


def test_those_that_pass_together_leave_room_for_the_head_too() -> None:
    live = running(ONE, job(1, gpus=2, timeout_s=101))
    decided = decide(ONE, [job(2, gpus=3), job(3, gpus=1), job(4, gpus=1)], live)
    assert (started(decided), decided.waits["j4"]) == (["j3"], Wait.BEHIND)
    live = running(ONE, job(1, cpus=4, timeout_s=101))
    decided = decide(ONE, [job(2, cpus=6), job(3, cpus=2), job(4, cpus=2)], live)
    assert (started(decided), decided.waits["j4"]) == (["j3"], Wait.BEHIND)


def test_without_time_limits_nothing_is_taken_that_the_head_could_use() -> None:
    live = running(ONE, job(1, gpus=2))  # never ends
    decided = decide(ONE, [job(2, gpus=3), job(3, gpus=1), job(4, cpus=1), job(5, gpus=1, timeout_s=9e9)], live)
    assert decided.head_start == NEVER
    assert started(decided) == ["j4", "j5"]  # CPUs that the head does not want; one that ends, if late
    assert decided.waits == {"j2": Wait.HEAD, "j3": Wait.BEHIND}


def test_room_for_a_head_without_a_start_is_kept_on_each_node_it_could_use() -> None:
    cluster = Cluster((Node("a", 8, 2), Node("b", 8, 0)))
    live = running(cluster, job(1, gpus=1))
    waiting = [job(2, gpus=2, cpus=4), job(3, cpus=9)]  # the head could be given 4 of the CPUs of a; 4 + 8 are spare
    assert started(decide(cluster, waiting, live)) == ["j3"]
    waiting = [job(2, gpus=2, cpus=4), job(3, cpus=13)]
    assert decide(cluster, waiting, live).waits["j3"] is Wait.BEHIND


def test_only_the_head_is_held_room_for() -> None:
    live = running(ONE, job(1, gpus=3, timeout_s=101))
    decided = decide(ONE, [job(2, gpus=4), job(3, gpus=4), job(4, gpus=1, timeout_s=50)], live)
    assert decided.waits == {"j2": Wait.HEAD, "j3": Wait.BUSY}
    assert started(decided) == ["j4"]


# preemption


def preempted(cluster: Cluster, waiting: Sequence[Job], live: tuple[tuple[Job, Attempt], ...]) -> list[str]:
    switched_on = Cluster(cluster.nodes, Policy(preempt=True))
    assert decide(cluster, waiting, live).preempt == ()  # off by default
    return [one.id for one, _ in decide(switched_on, waiting, live).preempt]


def test_preemption_stops_the_fewest_then_the_lowest_then_the_youngest() -> None:
    live = running(ONE, job(1, gpus=1), job(2, gpus=2, priority=1), job(3, gpus=1))
    assert preempted(ONE, [job(9, gpus=2, priority=5)], live) == ["j2"]  # one of two GPUs rather than two of one
    assert preempted(ONE, [job(9, gpus=1, priority=5)], live) == ["j1"]  # of the lowest, the youngest: begun at NOW - 1
    live = running(ONE, job(1, gpus=1, priority=3), job(2, gpus=3))
    assert preempted(ONE, [job(9, gpus=1, priority=5)], live) == ["j2"]
    assert preempted(ONE, [job(9, gpus=4, priority=5)], live) == ["j2", "j1"]


def test_preemption_spares_equals_and_what_would_not_help() -> None:
    live = running(ONE, job(1, gpus=1, priority=5), job(2, gpus=3))
    assert preempted(ONE, [job(9, gpus=4, priority=5)], live) == []
    assert preempted(ONE, [job(9, gpus=1, priority=0)], live) == []


def test_preemption_waits_for_those_it_has_stopped() -> None:
    (first, second) = running(ONE, job(1, gpus=2), job(2, gpus=2))
    stopping = (first[0], attempt(first[0], first[1].placement, stop_at=NOW - 2))
    assert preempted(ONE, [job(9, gpus=2, priority=5)], (stopping, second)) == []
    assert preempted(ONE, [job(9, gpus=3, priority=5)], (stopping, second)) == ["j2"]
    later = (second[0], attempt(second[0], second[1].placement, stop_at=NOW))
    decided = decide(ONE, [job(9, gpus=4, priority=5)], (stopping, later))
    assert decided.head_start == NOW + 10  # the grace of the later one


# promises, by brute force

SPECS = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 3.0]),
        "cpus": st.sampled_from([1.0, 2.0, 4.0]),
        "priority": st.integers(0, 2),
        "timeout_s": st.sampled_from([None, None, 20.0, 60.0, 200.0]),
    }
)


@settings(max_examples=300)
@given(st.lists(SPECS, max_size=5), st.lists(SPECS, min_size=1, max_size=6), st.sampled_from([ONE, TWO, PLAIN]))
def test_the_head_is_never_delayed(runs: list[dict[str, Any]], waits: list[dict[str, Any]], cluster: Cluster) -> None:
    live: tuple[tuple[Job, Attempt], ...] = ()
    for number, options in enumerate(runs, start=1):
        one = job(number, **options)
        room = without(empty(cluster.nodes), (share for _, other in live for share in other.placement))
        placement = place(Shape.of(one), room)
        if placement is not None:
            live += ((one, attempt(one, placement, begun=NOW - number)),)
    waiting = [job(number, **options) for number, options in enumerate(waits, start=11)]
    decided = decide(cluster, waiting, live)
    in_line = sorted(waiting, key=lambda one: (-one.priority, one.seq))
    assert {one.id for one in in_line} == {*started(decided), *decided.waits}
    if decided.head is None:
        assert all(wait is Wait.TOO_LARGE for wait in decided.waits.values())
        return
    head, place_of_head = Shape.of(decided.head), in_line.index(decided.head)
    passing = [(one, placed) for one, placed in decided.start if in_line.index(one) > place_of_head]
    before = [(_end_of(one, NOW), placed) for one, placed in decided.start if in_line.index(one) < place_of_head]
    ends = [(_end_of(one, tried.running_at or NOW), tried.placement) for one, tried in live] + before
    assert not _fits(cluster, head, [placed for _, placed in ends])  # it really cannot start now

    # 1. At the start that it can count on, it fits beside those that passed and have not ended by then.
    finite = sorted(end for end, _ in ends if end < NEVER)
    counted = [end for end in finite if _fits(cluster, head, [placed for other, placed in ends if other > end])]
    assert decided.head_start == (max(counted[0], NOW) if counted else NEVER)
    if counted:
        still = [placed for end, placed in ends if end > counted[0]]
        late = [placed for one, placed in passing if _end_of(one, NOW) > counted[0]]
        assert _fits(cluster, head, [*still, *late])
    # 2. Without one: whichever of those that run end, if the head then fitted without those that passed and never
    #    end, it fits with them.
    else:
        endless = [placed for one, placed in passing if one.timeout_s is None]
        for size in range(len(ends) + 1):
            for left in combinations([placed for _, placed in ends], size):
                if _fits(cluster, head, list(left)):
                    assert _fits(cluster, head, [*left, *endless])


def _end_of(one: Job, begun: float) -> float:
    return NEVER if one.timeout_s is None else begun + one.timeout_s


def _fits(cluster: Cluster, shape: Shape, placements: Sequence[tuple[Share, ...]]) -> bool:
    room = without(empty(cluster.nodes), (share for placement in placements for share in placement))
    return place(shape, room) is not None


@given(SPECS, st.lists(SPECS, max_size=4))
def test_placing_is_exact(options: dict[str, Any], others: list[dict[str, Any]]) -> None:
    """Workers of one size fit if and only if each node's count of them adds up."""
    live = [place(Shape.of(job(n, **one)), empty(TWO.nodes)) for n, one in enumerate(others)]
    room = without(empty(TWO.nodes), [share for placed in live[:1] if placed for share in placed])
    shape = Shape.of(job(99, **options))
    alone = Shape(1, shape.cpus, shape.gpus)
    count = 0
    for name, free in room.items():
        here = {name: free}
        while (one := place(alone, here)) is not None:
            here = without(here, one)
            count += 1
    assert (place(shape, room) is not None) == (count >= shape.workers)


# what a job can be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": ()}, "command: got none"),
        ({"command": ("",)}, "command: got none"),
        ({"command": ("a\0b",)}, "NUL"),
        ({"gpus": -1}, "--gpus: got -1"),
        ({"gpus": float("nan")}, "--gpus: got nan"),
        ({"cpus": float("inf")}, "--cpus: got inf"),
        ({"cpus": 0}, "got 0 of both"),
        ({"gpus": 3, "workers": 2}, "1.5 each; want whole GPUs"),
        ({"timeout_s": 0}, "--timeout-s: got 0"),
        ({"retries": -1}, "--retries: got -1"),
        ({"priority": 2**31}, "priority: got 2147483648"),
        ({"alone": True, "workers": 2}, "beside --alone"),
        ({"workers": -1}, "--workers: got -1"),
        ({"name": "x" * 81}, "--name"),
        ({"name": "a\nb"}, "printable"),
    ],
)
def test_a_job_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(QueueError, match=message) as error:
        JobSpec(**{"command": ("true",), **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "workers"),
    [({}, 1), ({"cpus": 8}, 8), ({"gpus": 2, "cpus": 8}, 2), ({"gpus": 2.5}, 3), ({"gpus": 4, "alone": True}, 1)],
)
def test_workers_by_default(options: dict[str, Any], workers: int) -> None:
    assert JobSpec(("true",), **options).workers == workers


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python jobs/pack.py --home x", "pack"),
        ("/usr/bin/python3 -u train.py", "train"),
        ("distseg tune a.yaml", "tune"),
        ("./run.sh", "run"),
        ("python", "python"),
        ("-x", "job"),
    ],
)
def test_names_by_default(command: str, name: str) -> None:
    assert name_of(tuple(command.split())) == name


# explained


def explained(cluster: Cluster, which: Job, waiting: Sequence[Job], live: tuple[tuple[Job, Attempt], ...] = ()) -> str:
    seen = Snapshot(NOW, tuple(sorted(waiting, key=lambda one: (-one.priority, one.seq))), live, 0)
    return explain(which, seen, plan(seen, cluster), cluster, [], None)


def test_explanations() -> None:
    timed, endless = running(ONE, job(1, gpus=3, timeout_s=101)), running(ONE, job(1, gpus=3))
    head, late, limited = job(2, gpus=4), job(3, gpus=1), job(4, gpus=2)
    assert explained(ONE, head, [head], timed) == (
        "First in line: needs 4 workers of 1 GPU each; free now: 1 GPU and 8 CPU. "
        "It can start at 1970-01-01T00:18:20+00:00 at the latest, by the time limits of those that run."
    )
    assert explained(ONE, head, [head], endless).endswith(
        "It can start when enough of these end, which have no time limit: n1 (j1)."
    )
    assert explained(ONE, late, [head, late], timed) == (
        "Fits now, but could delay n2 (j2), which is first in line; it can start after that one, or at once with a "
        "time limit (--timeout-s) of less than 1 min 40 s."
    )
    assert explained(ONE, limited, [head, late, limited], timed) == (
        "Number 3 in line, behind n2 (j2): needs 2 workers of 1 GPU each; free now: 1 GPU and 8 CPU."
    )
    assert explained(ONE, late, [late]) == "Fits now: starts at the dispatcher's next look, within a second or two."
    large = job(5, gpus=8)
    assert explained(ONE, large, [large]) == (
        "Waits for a larger cluster: needs 8 workers of 1 GPU each; even when empty, the one node of it "
        "(4 GPU and 8 CPU) can hold 4 of these workers."
    )
    capped = Cluster(ONE.nodes, Policy(max_per_owner=1), seen_at=NOW)
    assert explained(capped, late, [late], endless) == (
        "Waits because ada may run 1 jobs at once; it can start when one of them ends: n1 (j1)."
    )
    backoff = job(6, not_before=NOW + 75)
    assert explained(ONE, backoff, [backoff]) == "Waits 1 min 15 s more before attempt 1: exit code 1."
    assert explained(Cluster(), late, [late]) == "Waits for a cluster: no dispatcher has reached one yet."
