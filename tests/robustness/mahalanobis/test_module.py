import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.classification.ood_images import OtherDigits
from datamodules.randomness.generators import generator_of, sample_like
from lightning_modules.metrics.detection import detection_metrics
from lightning_modules.robustness.attacks import PGD, CarliniWagner, DeepFool
from lightning_modules.robustness.mahalanobis.ensemble import Sample, fit_ensemble
from lightning_modules.robustness.mahalanobis.gaussians import mahalanobis_confidence, mahalanobis_distances
from lightning_modules.robustness.mahalanobis.layers import layer_features
from lightning_modules.robustness.mahalanobis.local_dimension import NEIGHBOURS, in_mini_batches
from lightning_modules.robustness.mahalanobis.module import NOISE, CopyNoise, Mahalanobis
from lightning_modules.robustness.mahalanobis.scores import softmax_confidence
from tests.robustness.mahalanobis.small_detector import FGSM, data, detector, in_double, ready, results_of
from tests.trainers import standing

Run = tuple[Mahalanobis, dict[str, float]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    module = detector(attacks=[FGSM], odin=False)
    directory = tmp_path_factory.mktemp("run")
    trainer = in_double(max_epochs=1, default_root_dir=directory)
    before = copy.deepcopy(module.network.state_dict())
    trainer.fit(module, datamodule=data())
    results = trainer.test(module, datamodule=data(), verbose=False)
    for name, value in module.network.state_dict().items():
        assert torch.equal(value, before[name].double()), name
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not module.network.training
    assert module.network.conv1.weight.requires_grad
    return module, {name: value for part in results for name, value in part.items()}


def test_fit_gathers_the_statistics_of_all_training_images(run: Run) -> None:
    module, _ = run
    source = Digits(num_classes=8).training()
    with torch.no_grad():
        _, features = layer_features(module.network, module.layers, source.image.double() / 16)
    for place, part in enumerate(features):
        means = torch.stack([part[source.label == c].mean(0) for c in range(8)])
        rest = part - means[source.label]
        torch.testing.assert_close(module.gaussians.means(place), means, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(module.gaussians.covariance(place), rest.T @ rest / len(rest), rtol=1e-9, atol=1e-14)


def test_images_are_scored_without_a_trainer_as_in_the_test(run: Run) -> None:
    module, _ = run
    alone, source = detector().double(), Digits(num_classes=8).training()
    alone.observe(source.image.double() / 16, source.label)
    found = alone.score_images(Digits(num_classes=8).test().image.double() / 16)
    detection = next(each for each in module.detections if each.target == "other")
    torch.testing.assert_close(found, detection.confidence["mean"][: len(found)], rtol=1e-9, atol=1e-9)


def test_metrics_are_those_of_the_images_that_nothing_was_tuned_on(run: Run) -> None:
    module, metrics = run
    test = Digits(num_classes=8).test()
    other = OtherDigits([8, 9]).of_no_class((1, 8, 8), 0)
    whitened = module.gaussians.whitening(1)
    with torch.no_grad():
        logits, features = layer_features(module.network, module.layers, test.image.double() / 16)
        other_logits, other_features = layer_features(module.network, module.layers, other.image.double() / 16)
    expected = detection_metrics(softmax_confidence(logits)[40:], softmax_confidence(other_logits)[40:])
    assert metrics["test/auroc_softmax_other"] == pytest.approx(expected["auroc"], abs=1e-6)
    expected = detection_metrics(
        mahalanobis_confidence(features[1], whitened)[40:], mahalanobis_confidence(other_features[1], whitened)[40:]
    )
    assert metrics["test/auroc_last_other"] == pytest.approx(expected["auroc"], abs=1e-6)
    assert metrics["test/accuracy"] == pytest.approx((logits.argmax(1) == test.label).double().mean().item(), abs=1e-6)
    right = mahalanobis_distances(features[1], whitened).argmin(dim=1) == test.label
    assert metrics["test/accuracy_by_distance"] == pytest.approx(right.double().mean().item(), abs=1e-6)
    for metric in ("auroc", "tnr95", "aupr_in", "aupr_out", "detection_accuracy"):
        mean = (metrics[f"test/{metric}_other"] + metrics[f"test/{metric}_noise"]) / 2
        assert metrics[f"test/{metric}"] == pytest.approx(mean, abs=1e-6)
    assert metrics["test/auroc_other"] == metrics["test/auroc_mean_other"]
    assert not any("dataloader_idx" in name for name in metrics)
    assert [detection.target for detection in module.detections] == ["other", "noise", "fgsm"]


def test_adversarial_sets_hold_what_is_right_before_and_wrong_after(run: Run) -> None:
    module, metrics = run
    detection = module.detections[2]
    test = Digits(num_classes=8).test()
    with torch.no_grad():
        right = module(test.image.double() / 16).argmax(dim=1) == test.label
    assert bool(right[detection.index].all())
    assert int(detection.is_target.sum()) * 3 == len(detection.index)
    cut = int(0.1 * len(test.label))
    assert torch.equal(detection.is_validation, detection.index < cut)
    # of the in-distribution inputs, clean images have the same confidence as with other sets
    beside = module.detections[0]
    third = len(detection.index) // 3
    clean = beside.confidence["softmax"][~beside.is_target][detection.index[:third]]
    torch.testing.assert_close(detection.confidence["softmax"][:third], clean)
    assert "test/auroc_fgsm" in metrics


def test_minimal_attacks_are_detected_beside_the_others(tmp_path: Path) -> None:
    carlini_wagner = CarliniWagner(steps=20, learning_rate=0.1, initial_constant=1.0, search_steps=2)
    attacks = [FGSM, DeepFool(overshoot=0.2), carlini_wagner]
    module = ready(attacks=attacks, noise=CopyNoise({"fgsm": 0.0, "deepfool": 0.05, "carlini_wagner": 0.1}))
    metrics = results_of(module, tmp_path)
    assert [detection.target for detection in module.detections] == ["fgsm", "deepfool", "carlini_wagner"]
    assert {"test/auroc_mean_deepfool", "test/auroc_tuned_on_target_carlini_wagner"} <= metrics.keys()
    test = Digits(num_classes=8).test()
    image = test.image.double() / 16
    adversarial = attacks[1].perturb(module.network, image, test.label)
    with torch.no_grad():
        clean, wrong = module(image), module(adversarial).argmax(dim=1) != test.label
    detection = module.detections[1]
    third = detection.index.chunk(3)[0]
    assert torch.equal(detection.index, third.repeat(3))
    assert bool(wrong[third].all())
    expected = softmax_confidence(module(adversarial[third]))
    torch.testing.assert_close(detection.confidence["softmax"].chunk(3)[2], expected.detach())
    # noisy copies have a different size for each attack; those of the first equal the clean images
    copies = [detection.confidence["softmax"].chunk(3) for detection in module.detections]
    assert torch.equal(copies[0][1], copies[0][0])
    assert torch.equal(copies[0][0], softmax_confidence(clean)[module.detections[0].index.chunk(3)[0]])
    for place, std in ((1, 0.05), (2, 0.1)):
        rows = module.detections[place].index.chunk(3)[0]
        noise = sample_like(image[rows], torch.randn, [generator_of(row, NOISE) for row in rows.tolist()])
        with torch.no_grad():
            torch.testing.assert_close(copies[place][1], softmax_confidence(module(image[rows] + std * noise)))


def test_local_dimension_is_that_of_mini_batches_of_the_images_that_are_fooled(tmp_path: Path) -> None:
    """The result does not depend on the batch size of the test; with noise of zero, all images are known."""
    module = ready(attacks=[FGSM], noise=CopyNoise(0.0), lid=True, score="lid")
    metrics = results_of(module, tmp_path, evaluation_batch_size=57)
    [detection] = module.detections
    test = Digits(num_classes=8).test()
    third = detection.index.chunk(3)[0]
    image = test.image[third].double() / 16
    adversarial = FGSM.perturb(module.network, image, test.label[third])
    with torch.no_grad():
        clean, other = (layer_features(module.network, module.layers, part)[1] for part in (image, adversarial))
    layers = [torch.cat(in_mini_batches([one, one, two])) for one, two in zip(clean, other, strict=True)]
    dimension = torch.stack(layers, dim=1)
    assert dimension.shape == (len(detection.index), 2, len(NEIGHBOURS))
    cut = int(0.1 * len(test.label))
    halves = detection.index < cut // 2, (detection.index >= cut // 2) & (detection.index < cut)
    fit, choose = (
        Sample(dimension[rows & ~detection.is_target], dimension[rows & detection.is_target]) for rows in halves
    )
    ensemble = fit_ensemble(fit, choose, "auroc")
    assert detection.num_neighbours == {"lid": NEIGHBOURS[ensemble.column]}
    torch.testing.assert_close(detection.confidence["lid"], ensemble.confidence(dimension), rtol=1e-6, atol=1e-6)
    assert metrics["test/auroc_fgsm"] == metrics["test/auroc_lid_fgsm"] == metrics["test/auroc"]
    assert metrics["test/auroc_fgsm"] == pytest.approx(detection.metrics("lid")["auroc"], abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_and_random_starts_are_those_of_an_image_in_whatever_batch(norm: Any, tmp_path: Path) -> None:
    attack = PGD(norm, 0.15 if norm == "linf" else 1.0, steps=2, restarts=2, name="pgd")
    confidence = []
    for seed, size in enumerate((57, 200)):
        torch.manual_seed(seed)
        module = ready(attacks=[attack], noise=CopyNoise(0.05))
        results_of(module, tmp_path, evaluation_batch_size=size)
        [detection] = module.detections
        confidence.append(torch.cat([detection.index.double(), detection.confidence["mean"]]))
    torch.testing.assert_close(confidence[0], confidence[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clip_noise", [False, True])
def test_noisy_copies_are_clipped_on_request(clip_noise: bool, tmp_path: Path) -> None:
    module = ready(attacks=[FGSM], noise=CopyNoise(0.5, clip_noise), epsilons=[0.0])
    seen: list[Tensor] = []
    module.network.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    results_of(module, tmp_path)
    outside = [float(image.min()) < 0 or float(image.max()) > 1 for image in seen]
    assert any(outside) != clip_noise


@pytest.mark.filterwarnings("ignore")
def test_local_dimension_is_left_out_where_nothing_can_be_tuned(tmp_path: Path) -> None:
    weak = PGD("linf", 0.01, steps=1, step_size=0.01, random_start=False, name="weak")
    module = ready(attacks=[weak], lid=True)
    results_of(module, tmp_path)
    [detection] = module.detections
    assert "lid" not in detection.confidence
    assert "mean" in detection.confidence
    with pytest.raises(ValueError, match=r"score lid: .* validation inputs of weak are too few"):
        results_of(ready(attacks=[weak], lid=True, score="lid"), tmp_path)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    trainer = in_double(default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="statistics are empty: run fit first"):
        trainer.test(detector(), datamodule=data())
    ready = detector(num_validation=60)
    ready.gaussians.count += 1
    with pytest.raises(ValueError, match="num_validation 60 leaves none of the 60 images of noise"):
        trainer.test(ready, datamodule=data())
    with pytest.raises(ValueError, match="there is nothing to detect"):
        trainer.test(ready, datamodule=LabelledImages(Digits(num_classes=8), batch_size=64))
    ready.trainer = standing(precision="16-mixed")
    with pytest.raises(ValueError, match=r"trainer\.precision 16-mixed"):
        ready.setup("fit")


def test_one_batch_of_each_set_is_enough_for_what_can_be_measured(run: Run, tmp_path: Path) -> None:
    """`limit_test_batches` is 1, which means one batch; 1.0 would mean all batches."""
    module = detector()
    module.load_state_dict(run[0].state_dict())
    few = data(evaluation_batch_size=30)
    trainer = in_double(default_root_dir=tmp_path, limit_test_batches=1)
    trainer.test(module, datamodule=few, verbose=False)
    assert [len(detection.index) for detection in module.detections] == [60, 60]
    assert [int(detection.is_validation.sum()) for detection in module.detections] == [30, 30]
