import numpy as np
import pytest

from lightning_modules.noisy_labels.annotation_efficient.stages import StageSchedule, constant_then_linear


def test_stages_follow_one_another() -> None:
    stages = StageSchedule(vae_epochs=2, translation_epochs=3, warm_up_epochs=2, rounds=2, round_epochs=3)
    assert [stages.stage(epoch)[0] for epoch in range(stages.total)] == list("ss" + "ttt" + "s" * 8)
    assert [stages.stage(epoch) for epoch in (1, 5)] == ["shape", "segmentation"]
    assert [stages.round(epoch) for epoch in range(stages.total)] == [-1] * 5 + [0] * 2 + [1] * 3 + [2] * 3
    assert [epoch for epoch in range(stages.total + 2) if stages.begins_round(epoch)] == [5, 7, 10]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((0, 0, 0, 0, 4), "must be at least 1, all are 0"),
        ((1, 1, 0, 2, 4), "rounds 2"),
    ],
)
def test_bad_stages_are_named(numbers: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        StageSchedule(*numbers)


def test_the_learning_rate_is_constant_and_then_falls_to_nearly_nothing() -> None:
    factors = [constant_then_linear(epoch, 200, 0.5) for epoch in range(200)]
    assert factors[:100] == [1.0] * 100
    assert np.diff(factors[99:]) == pytest.approx(-1 / 101)
    assert factors[-1] == pytest.approx(1 / 101)
    assert [constant_then_linear(epoch, 4, 1.0) for epoch in range(4)] == [1.0] * 4
