"""Studies that share a cluster: who may start a trial next."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from distseg.search.claims import PATIENCE_S, Claim, may_start


def small(trials: int, waited_s: float = 0.0) -> Claim:
    """A study of trials that take one CPU."""
    return Claim("small", 1, 0, trials, waited_s)


def gang(trials: int, waited_s: float = 0.0) -> Claim:
    """A study of trials that take two CPUs at once."""
    return Claim("gang", 2, 0, trials, waited_s)


def test_alone_nothing_is_asked() -> None:
    assert may_start(small(99), [], cpus=2, gpus=0)


def test_what_is_held_is_not_given_twice() -> None:
    assert may_start(small(1), [small(0)], cpus=2, gpus=0)
    assert not may_start(gang(0), [small(1)], cpus=2, gpus=0)


def test_a_gang_that_has_waited_gets_what_falls_free() -> None:
    """On two CPUs: the small study has ended one of its two trials."""
    assert may_start(small(1), [gang(0, waited_s=PATIENCE_S - 1)], cpus=2, gpus=0)  # not yet
    assert not may_start(small(1), [gang(0, waited_s=PATIENCE_S)], cpus=2, gpus=0)
    assert not may_start(gang(0, waited_s=PATIENCE_S), [small(1)], cpus=2, gpus=0)
    assert may_start(gang(0, waited_s=PATIENCE_S), [small(0)], cpus=2, gpus=0)


def test_of_two_that_wait_the_earlier_is_first() -> None:
    assert may_start(gang(0, waited_s=90), [small(0, waited_s=60)], cpus=2, gpus=0)
    assert not may_start(small(0, waited_s=60), [gang(0, waited_s=90)], cpus=2, gpus=0)
    assert may_start(small(0, waited_s=60), [gang(0, waited_s=90)], cpus=3, gpus=0)  # beside it


def test_gpus_count_as_well() -> None:
    one, other = Claim("a", 1, 0.5, 1, 0), Claim("b", 1, 0.5, 1, 0)
    assert not may_start(one, [other], cpus=64, gpus=1)
    assert may_start(one, [other], cpus=64, gpus=1.5)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=2, max_size=4),
    st.randoms(use_true_random=False),
)
def test_every_study_gets_its_turn(studies: list[tuple[int, int]], random) -> None:  # type: ignore[no-untyped-def]
    """Trials end and begin in any order on four CPUs: nobody holds too much, and nobody waits for more than a round."""
    claims = [Claim(str(number), cpus, 0, 0, 0) for number, (cpus, _) in enumerate(studies)]
    started = [0] * len(claims)
    for now in itertools.count(1):
        if min(started) >= 3:
            break
        assert now < 400, f"somebody starves: {started}"
        running = [number for number, claim in enumerate(claims) if claim.trials]
        if running:  # some trial ends
            number = random.choice(running)
            claims[number] = Claim(**{**claims[number].__dict__, "trials": claims[number].trials - 1})
        for number in random.sample(range(len(claims)), len(claims)):
            own, others = claims[number], [claim for claim in claims if claim is not claims[number]]
            own = Claim(**{**own.__dict__, "waited_s": own.waited_s + 20})
            if may_start(own, others, cpus=4, gpus=0):
                own = Claim(**{**own.__dict__, "trials": own.trials + 1, "waited_s": 0})
                started[number] += 1
            claims[number] = own
        assert sum(claim.cpus * claim.trials for claim in claims) <= 4
