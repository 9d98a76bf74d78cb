import pytest
from hypothesis import given
from hypothesis import strategies as st

from distseg.data.split import fold_groups, split_groups
from distseg.errors import DataError

group_sizes = st.dictionaries(
    st.text("abcdef0123", min_size=1, max_size=4), st.integers(1, 40), min_size=3, max_size=30
)


def held(sizes: dict[str, int], places: dict, place: object) -> int:
    return sum(number for group, number in sizes.items() if places[group] == place)


def test_equal_groups_meet_their_fractions() -> None:
    sizes = {f"car{number}": 16 for number in range(10)}
    splits = split_groups(sizes, val_fraction=0.2, test_fraction=0.1, seed=0)
    # of 160 samples: test 16 (one car), val 32 (two cars), train the other 112 (seven cars)
    assert [held(sizes, splits, part) for part in ("train", "val", "test")] == [112, 32, 16]


def test_nearest_number_of_groups_is_taken() -> None:
    sizes = dict.fromkeys("abcdefgh", 10)
    # 0.2 * 80 = 16: two groups (20) are 4 off, one group (10) would be 6 off
    assert held(sizes, split_groups(sizes, val_fraction=0.2, test_fraction=0, seed=3), "val") == 20


@given(group_sizes, st.floats(0.05, 0.45), st.sampled_from([0.0, 0.1, 0.4]), st.integers(0, 99))
def test_parts_are_whole_groups_close_to_their_fractions(
    sizes: dict[str, int], val_fraction: float, test_fraction: float, seed: int
) -> None:
    splits = split_groups(sizes, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    assert splits.keys() == sizes.keys()
    assert set(splits.values()) == ({"train", "val", "test"} if test_fraction else {"train", "val"})
    train = [number for group, number in sizes.items() if splits[group] == "train"]
    in_val = [group for group in sizes if splits[group] == "val"]
    miss = abs(held(sizes, splits, "val") - val_fraction * sum(sizes.values()))
    assert miss <= min(train) / 2 + 1e-9 or len(train) == 1 or len(in_val) == 1
    reordered = dict(sorted(sizes.items(), reverse=True))
    assert splits == split_groups(reordered, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)


def test_seed_chooses_the_groups() -> None:
    sizes = {f"car{number}": 16 for number in range(20)}
    splits = [split_groups(sizes, val_fraction=0.2, test_fraction=0, seed=seed) for seed in range(5)]
    assert len({tuple(split.items()) for split in splits}) > 1


def test_no_fraction_leaves_all_to_train() -> None:
    assert split_groups({"a": 3}, val_fraction=0, test_fraction=0, seed=0) == {"a": "train"}


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.0), (0.5, 0.5), (1.0, 0.0), (float("nan"), 0.0)])
def test_impossible_fractions_are_refused(val: float, test: float) -> None:
    with pytest.raises(DataError, match="want both at least 0"):
        split_groups({"a": 1, "b": 1, "c": 1}, val_fraction=val, test_fraction=test, seed=0)


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 group\(s\) cannot make 3 parts"):
        split_groups({"a": 9, "b": 9}, val_fraction=0.2, test_fraction=0.2, seed=0)


@given(group_sizes, st.integers(2, 3), st.integers(0, 99))
def test_folds_are_balanced_and_none_is_empty(sizes: dict[str, int], folds: int, seed: int) -> None:
    fold_of = fold_groups(sizes, folds, seed)
    samples = [held(sizes, fold_of, fold) for fold in range(folds)]
    assert sum(samples) == sum(sizes.values())
    assert min(samples) > 0
    assert max(samples) - min(samples) <= max(sizes.values())


def test_folds_by_hand() -> None:
    # largest first: 8 | 5 | 5 + 4 -> the 4 goes to a fold of 5, the 3 to the other fold of 5: 8, 9, 8
    fold_of = fold_groups({"a": 8, "b": 5, "c": 5, "d": 4, "e": 3}, 3, seed=0)
    assert sorted(held({"a": 8, "b": 5, "c": 5, "d": 4, "e": 3}, fold_of, fold) for fold in range(3)) == [8, 8, 9]


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_folds_need_a_group_each(folds: int) -> None:
    with pytest.raises(DataError, match="of 3 groups"):
        fold_groups({"a": 1, "b": 1, "c": 1}, folds, seed=0)


def share(places: dict, place: object, pixels: dict[str, dict[int, int]], label: int) -> float:
    whole = sum(counts.get(label, 0) for counts in pixels.values())
    return sum(counts.get(label, 0) for group, counts in pixels.items() if places[group] == place) / whole


def test_equal_groups_meet_their_fractions_when_stratified_too() -> None:
    sizes = {f"car{number}": 16 for number in range(10)}
    pixels = {group: {0: 100, 1: 10} for group in sizes}
    splits = split_groups(sizes, val_fraction=0.2, test_fraction=0.1, seed=0, class_pixels=pixels)
    # of 160 samples: test 16 (one car), val 32 (two cars), train the other 112 (seven cars)
    assert [held(sizes, splits, part) for part in ("train", "val", "test")] == [112, 32, 16]


@pytest.mark.parametrize("seed", range(10))
def test_a_rare_class_is_dealt_to_both_sides(seed: int) -> None:
    sizes = {f"s{number:02d}": 10 for number in range(20)}
    pixels = {group: {0: 1000} for group in sizes}
    for group in ("s03", "s07", "s11", "s12", "s19"):
        pixels[group][1] = 20
    splits = split_groups(sizes, val_fraction=0.2, test_fraction=0, seed=seed, class_pixels=pixels)
    # a fifth of five groups with the class is one
    assert share(splits, "val", pixels, 1) == pytest.approx(0.2)
    assert held(sizes, splits, "val") == 40
    folds = fold_groups(sizes, 5, seed, pixels)
    assert [share(folds, fold, pixels, 1) for fold in range(5)] == pytest.approx([0.2] * 5)
    assert [held(sizes, folds, fold) for fold in range(5)] == [40] * 5


@given(group_sizes, st.integers(0, 99), st.data())
def test_stratified_parts_are_whole_groups_none_empty_and_depend_on_values_alone(
    sizes: dict[str, int], seed: int, data: st.DataObject
) -> None:
    counts = st.dictionaries(st.integers(0, 5), st.integers(0, 1000), max_size=4)
    pixels = {group: data.draw(counts) for group in sizes}
    arguments: dict = {"val_fraction": 0.3, "test_fraction": 0.2, "seed": seed}
    splits = split_groups(sizes, class_pixels=pixels, **arguments)
    assert splits.keys() == sizes.keys()
    assert set(splits.values()) == {"train", "val", "test"}
    reordered = dict(sorted(sizes.items(), reverse=True))
    assert split_groups(reordered, class_pixels=dict(reversed(pixels.items())), **arguments) == splits
    assert set(fold_groups(sizes, 3, seed, pixels).values()) == {0, 1, 2}
