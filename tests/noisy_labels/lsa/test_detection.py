import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lightning_modules.noisy_labels.lsa.detection import (
    Detector,
    FlaggedImages,
    agreement,
    confidence,
    detect,
    detector_of_epoch,
    flag_metrics,
    high_mode_probability,
    linear_separation,
    min_max,
    score_ranks,
    small_loss,
)


def two_modes(low: int, high: int, distance: float, seed: int = 0) -> np.ndarray:
    """Sample losses from two normal distributions with unit variance; the losses around the lower mean come first."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.normal(10, 1, low), random.normal(10 + distance, 1, high)])


def test_min_max_fills_the_unit_interval() -> None:
    np.testing.assert_allclose(min_max([3.0, 5.0, 4.0]), [0, 1, 0.5])
    np.testing.assert_array_equal(min_max([2.0, 2.0]), [0, 0])
    np.testing.assert_allclose(min_max([0.0, 4.0, np.inf, 1.0]), [0, 1, 1, 0.25])


@settings(deadline=None, max_examples=15)
@given(scale=st.floats(0.1, 1e4), shift=st.floats(-100, 100), seed=st.integers(0, 50))
def test_probability_does_not_depend_on_units(scale: float, shift: float, seed: int) -> None:
    losses = two_modes(60, 40, 8, seed)
    np.testing.assert_allclose(
        high_mode_probability(scale * losses + shift), high_mode_probability(losses), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("random_state", range(8))
def test_the_high_mode_is_the_one_with_the_greater_mean_whatever_the_initialisation(random_state: int) -> None:
    for losses in (two_modes(150, 50, 10), two_modes(50, 150, 10)):
        probability = high_mode_probability(losses, random_state=random_state)
        np.testing.assert_array_equal(probability > 0.5, losses > 15)


def test_probability_is_that_of_bayes_for_the_fitted_modes() -> None:
    """With many iterations, well-separated modes are fitted by their own means and variances."""
    losses = two_modes(4000, 2000, 6)
    scaled = min_max(losses)
    low, high = scaled[:4000], scaled[4000:]
    density = [
        share * np.exp(-((scaled - mode.mean()) ** 2) / (2 * mode.var())) / mode.std()
        for share, mode in ((2 / 3, low), (1 / 3, high))
    ]
    expected = density[1] / (density[0] + density[1])
    found = high_mode_probability(losses, max_iter=500, tol=1e-9, reg_covar=1e-9)
    assert np.abs(found - expected).max() < 0.02


@pytest.mark.parametrize("losses", [[1.0], [1.0] * 50, [0.0] * 7])
def test_one_mode_has_no_high_one(losses: list[float]) -> None:
    np.testing.assert_array_equal(high_mode_probability(losses), np.zeros(len(losses)))


def test_infinite_losses_belong_to_the_high_mode_and_nan_or_none_is_refused() -> None:
    losses = two_modes(80, 20, 8)
    losses[-3:] = np.inf
    np.testing.assert_array_equal(high_mode_probability(losses) > 0.95, np.arange(100) >= 80)
    losses[5] = np.nan
    with pytest.raises(ValueError, match="1 of 100 are NaN"):
        high_mode_probability(losses)
    with pytest.raises(ValueError, match="none of 0 losses is finite"):
        high_mode_probability([])


def test_two_modes_of_losses_five_deviations_apart_are_told_apart_exactly() -> None:
    random = np.random.default_rng(0)
    loss = np.concatenate([random.uniform(0, 1, 300), random.uniform(6, 7, 200)])  # gap: 5
    verdict, probability = small_loss(loss, 0.95)
    np.testing.assert_array_equal(verdict, np.arange(500) >= 300)
    assert ((probability > 0.95) == verdict).all()


def separable(seed: int = 0, num: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    noisy = np.arange(num) < 0.4 * num
    feature = random.normal(size=(num, 8))
    feature[:, 2] = np.where(noisy, 1.5, -1.5) + random.uniform(-1, 1, num)
    return feature, noisy


def test_a_hyperplane_corrects_verdicts_of_which_a_tenth_is_wrong_whatever_the_units() -> None:
    feature, noisy = separable()
    corrupted = noisy ^ (np.random.default_rng(1).random(len(noisy)) < 0.1)
    verdict, score = linear_separation(feature, corrupted)
    assert (corrupted == noisy).mean() < 0.93
    assert (verdict == noisy).mean() > 0.97
    np.testing.assert_array_equal(verdict, score > 0)
    units = np.array([1e-3, 1, 50, 2, 3, 1e4, 5, 7])
    np.testing.assert_array_equal(linear_separation(feature * units + 3, corrupted)[0], verdict)


def test_classes_of_any_size_weigh_the_same() -> None:
    """With one feature and classes of different sizes, class weights place the plane midway between the classes."""
    random = np.random.default_rng(0)
    feature = np.concatenate([random.normal(-1, 1, 2000), random.normal(1, 1, 100)])[:, None]
    verdict, _ = linear_separation(feature, np.arange(2100) >= 2000)
    border = (feature[verdict].min() + feature[~verdict].max()) / 2
    assert abs(border) < 0.15


@pytest.mark.parametrize("value", [True, False])
def test_equal_verdicts_leave_nothing_to_separate(value: bool) -> None:
    feature, _ = separable(num=20)
    np.testing.assert_array_equal(linear_separation(feature, np.full(20, value))[0], np.full(20, value))


def test_epochs_alternate_from_the_first_detector_on() -> None:
    assert [detector_of_epoch(["linear", "loss"], epoch) for epoch in range(6)] == ["linear", "loss"] * 3
    assert {detector_of_epoch(["loss"], epoch) for epoch in range(6)} == {"loss"}


@pytest.mark.parametrize("detector", ["linear", "loss"])
def test_a_detection_is_its_parts(detector: Detector) -> None:
    feature, noisy = separable()
    random = np.random.default_rng(2)
    loss = np.where(noisy ^ (random.random(len(noisy)) < 0.1), 5, 0) + random.random(len(noisy))
    pseudo_loss = random.random(len(noisy))
    found = detect(detector, loss, pseudo_loss, feature, 0.95)
    expected, _ = small_loss(loss, 0.95)
    if detector == "linear":
        expected, _ = linear_separation(feature, expected)
    np.testing.assert_array_equal(found.is_noisy, expected)
    np.testing.assert_array_equal(found.weight, confidence(pseudo_loss, expected))


def test_confident_guesses_are_those_of_the_lower_mode_of_the_noisy_images_pseudo_losses() -> None:
    noisy = np.arange(100) % 2 == 0
    pseudo_loss = np.where(np.arange(100) < 60, 0.1, 4.0) + np.linspace(0, 0.1, 100)
    pseudo_loss[~noisy] = 1e3  # which must have no effect
    weight = confidence(pseudo_loss, noisy)
    np.testing.assert_array_equal(weight[~noisy], 1)
    np.testing.assert_allclose(weight[noisy], (np.arange(100) < 60)[noisy], atol=1e-6)


@pytest.mark.parametrize(("num_noisy", "first"), [(2, 0.0), (6, np.nan)])
def test_two_noisy_images_or_a_pseudo_loss_that_is_no_number_leave_all_weights_at_one(
    num_noisy: int, first: float
) -> None:
    pseudo_loss = np.array([first, *range(1, 10)])
    np.testing.assert_array_equal(confidence(pseudo_loss, np.arange(10) < num_noisy), np.ones(10))


def test_an_infinite_pseudo_loss_counts_as_the_greatest_finite_one() -> None:
    noisy = np.ones(40, dtype=bool)
    pseudo_loss = np.where(np.arange(40) < 30, 0.1, 4.0) + np.linspace(0, 0.1, 40)
    expected = confidence(pseudo_loss, noisy)
    pseudo_loss[39] = np.inf
    np.testing.assert_allclose(confidence(pseudo_loss, noisy), expected, atol=1e-3)


def test_two_networks_agree_on_a_subset_of_what_each_finds() -> None:
    random = np.random.default_rng(0)
    noisy, numbers = random.random((2, 30)) < 0.5, random.random((2, 30))
    weight = np.where(noisy, numbers, 1.0)
    both = agreement(*(FlaggedImages(*each) for each in zip(noisy, numbers, weight, strict=True)))
    np.testing.assert_array_equal(both.is_noisy, noisy.all(axis=0))
    np.testing.assert_allclose(both.weight, np.where(noisy.all(axis=0), weight.mean(axis=0), 1))
    assert ((both.score >= 0) & (both.score <= 1)).all()


def test_ranks_keep_order_and_ties() -> None:
    np.testing.assert_allclose(score_ranks(np.array([5.0, -1.0, 5.0, 100.0])), [0.5, 0, 0.5, 1])
    np.testing.assert_array_equal(score_ranks(np.array([3.0])), [0])


def test_metrics_count_what_they_say_and_are_left_out_where_they_are_not_defined() -> None:
    noisy = np.array([1, 1, 1, 0, 0, 0], dtype=bool)
    wrong = np.array([1, 1, 0, 1, 0, 0], dtype=bool)
    score = np.array([6, 5, 4, 3, 2, 1.0])
    expected = {"noisy": 1 / 2, "detection_precision": 2 / 3, "detection_recall": 2 / 3, "clean_flagged": 1 / 3}
    expected["detection_auroc"] = roc_auc_score(wrong, score)
    assert flag_metrics(FlaggedImages(noisy, score, np.ones(6)), wrong) == pytest.approx(expected)
    none = FlaggedImages(np.zeros(3, dtype=bool), np.zeros(3), np.ones(3))
    assert flag_metrics(none, None) == {"noisy": 0}
    assert set(flag_metrics(none, np.zeros(3, dtype=bool))) == {"noisy", "clean_flagged"}
    assert set(flag_metrics(none, np.ones(3, dtype=bool))) == {"noisy", "detection_recall"}
