import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datamodules.loading.lanes import order_in_lanes


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 99))
def test_every_image_occurs_once_and_few_groups_are_mixed(sizes: list[int], lanes: int, seed: int) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    order = order_in_lanes(group, lanes, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(group)))
    place = np.argsort(order)
    spans = [(place[group == each].min(), place[group == each].max()) for each in range(len(sizes))]
    for at in range(len(order)):  # row groups that have begun and have not ended
        assert sum(first <= at <= last for first, last in spans) <= min(lanes, len(sizes))


def test_lanes_take_turns() -> None:
    group = np.repeat(np.arange(4), 5)
    order = order_in_lanes(group, 2, np.random.default_rng(0))
    assert len(set(group[order[0:10:2]])) == 1
    assert len(set(group[order[1:10:2]])) == 1
    assert len(set(group[order[:10]])) == 2
