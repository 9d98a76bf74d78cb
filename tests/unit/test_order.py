"""Who reads what when: each sample once an epoch, one global order for any number of ranks."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distseg.data.order import EpochPlan, epoch_order, permutation, rank_slice

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(tuple)
seeds = st.integers(0, 2**31 - 1)
plans = st.builds(
    EpochPlan,
    shard_sizes=sizes,
    batch_global=st.integers(1, 12),
    seed=seeds,
    window=st.integers(1, 10),
    tail=st.sampled_from(["wrap", "drop"]),
)


@pytest.mark.parametrize(
    ("length", "key", "wanted"),
    [
        (8, (0, 0), [0, 3, 7, 5, 1, 2, 6, 4]),
        (8, (1, 0), [2, 0, 1, 4, 5, 6, 7, 3]),
        (8, (0, 1), [3, 7, 4, 2, 1, 6, 5, 0]),
        (5, (7, 3, 1), [4, 1, 2, 3, 0]),
    ],
)
def test_permutation_is_pinned(length: int, key: tuple[int, ...], wanted: list[int]) -> None:
    # Literals from the algorithm as first released: another one would break resumed runs and packed bytes.
    assert permutation(length, *key).tolist() == wanted


def test_epoch_order_is_pinned() -> None:
    assert epoch_order((3, 1, 2), seed=5, epoch=2, window=2).tolist() == [5, 1, 4, 2, 0, 3]


@settings(deadline=None)
@given(st.integers(0, 50), seeds, st.integers(0, 100))
def test_permutation_holds_each_number_once(length: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(length, seed, epoch)) == list(range(length))


@settings(deadline=None)
@given(sizes, seeds, st.integers(0, 100), st.integers(1, 10))
def test_an_epoch_holds_each_sample_once(shard_sizes: tuple[int, ...], seed: int, epoch: int, window: int) -> None:
    order = epoch_order(shard_sizes, seed, epoch, window)
    assert sorted(order) == list(range(sum(shard_sizes)))


@settings(deadline=None)
@given(sizes, seeds, st.integers(1, 10))
def test_the_window_bounds_how_many_shards_are_mixed(shard_sizes: tuple[int, ...], seed: int, window: int) -> None:
    order = epoch_order(shard_sizes, seed, 0, window)
    shard_of = np.repeat(np.arange(len(shard_sizes)), shard_sizes)[order]
    first = 0
    seen: list[int] = []
    while first < len(order):  # the list falls into runs, each made of all the samples of `window` shards
        left = list(dict.fromkeys(shard_of[first:].tolist()))[:window]
        length = sum(shard_sizes[shard] for shard in left)
        run = set(shard_of[first : first + length].tolist())
        assert len(run) == min(window, len(shard_sizes) - len(seen))
        assert run.isdisjoint(seen)
        assert length == sum(shard_sizes[shard] for shard in run)
        seen += run
        first += length
    assert sorted(seen) == list(range(len(shard_sizes)))


def test_a_window_of_one_keeps_each_shard_together_and_shuffles_inside() -> None:
    order = epoch_order((50, 50), seed=0, epoch=0, window=1)
    halves = [set(order[:50].tolist()), set(order[50:].tolist())]
    assert set(range(50)) in halves
    assert sorted(order[:50].tolist()) != order[:50].tolist()


def test_a_window_over_all_shards_mixes_them() -> None:
    order = epoch_order((50, 50), seed=0, epoch=0, window=2)
    from_first = int((order[:50] < 50).sum())
    assert 10 < from_first < 40  # 25 in the mean, standard deviation 2.5


@settings(deadline=None)
@given(st.tuples(seeds, st.integers(0, 1000)), st.tuples(seeds, st.integers(0, 1000)))
def test_other_epochs_and_seeds_give_other_orders(one: tuple[int, int], other: tuple[int, int]) -> None:
    same = np.array_equal(epoch_order((20, 20), *one, window=2), epoch_order((20, 20), *other, window=2))
    assert same == (one == other)


def test_no_shard_gives_no_sample() -> None:
    assert epoch_order((), seed=0, epoch=0, window=8).tolist() == []


@pytest.mark.parametrize(
    ("samples", "batch", "tail", "steps", "surplus"),
    [
        (10, 4, "wrap", 3, 2),  # 3 x 4 = 12 = 10 + 2
        (10, 4, "drop", 2, -2),  # 2 x 4 =  8 = 10 - 2
        (12, 4, "wrap", 3, 0),
        (12, 4, "drop", 3, 0),
        (3, 8, "wrap", 1, 5),  # 1 x 8 = 3 + 5: the epoch's start comes round twice
        (3, 8, "drop", 0, -3),
    ],
)
def test_tails(samples: int, batch: int, tail: str, steps: int, surplus: int) -> None:
    plan = EpochPlan((samples,), batch, 0, 8, tail)  # type: ignore[arg-type]
    assert (plan.samples, plan.steps, plan.surplus) == (samples, steps, surplus)


@settings(deadline=None)
@given(plans, st.integers(0, 3))
def test_the_steps_of_an_epoch_walk_through_its_list_once(plan: EpochPlan, epoch: int) -> None:
    steps = range(epoch * plan.steps, (epoch + 1) * plan.steps)
    places = [plan.positions(step) for step in steps]
    assert all(of == epoch for of, _ in places)
    walked = [int(position) for _, positions in places for position in positions]
    assert walked == list(range(plan.samples + plan.surplus))
    if plan.tail == "wrap":
        seen = [int(plan.order(epoch)[position % plan.samples]) for position in walked]
        assert set(seen) == set(range(plan.samples))
        # what wraps comes from the epoch's start
        assert seen[plan.samples :] == list(itertools.islice(itertools.cycle(plan.order(epoch).tolist()), plan.surplus))
    else:
        assert plan.surplus <= 0
        assert -plan.surplus < plan.batch_global


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9))
def test_rank_slices_cut_a_batch_into_even_parts(batch: int, world_size: int) -> None:
    parts = [list(range(batch))[rank_slice(batch, rank, world_size)] for rank in range(world_size)]
    assert [position for part in parts for position in part] == list(range(batch))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) > 0 or world_size > batch


@settings(deadline=None)
@given(plans, st.integers(1, 5))
def test_the_global_order_does_not_depend_on_the_ranks(plan: EpochPlan, world_size: int) -> None:
    for step in range(min(2 * plan.steps, 6)):
        epoch, positions = plan.positions(step)
        whole = plan.order(epoch)[positions % plan.samples]
        parts = [whole[rank_slice(plan.batch_global, rank, world_size)] for rank in range(world_size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert sum(map(len, parts)) == plan.batch_global
