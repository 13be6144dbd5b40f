import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from datamodules.batches import LabelledImageBatch
from lightning_modules.interfaces import Classifier, MixedClassifier, MixtureOutput, SmoothedClassifier
from lightning_modules.networks.mlp import MLP
from lightning_modules.robustness.adaptive_smoothing.attacks import TrainingAttack, drawn_steps
from lightning_modules.robustness.adaptive_smoothing.mixing import smoothing_radius
from lightning_modules.robustness.adaptive_smoothing.mixture import Mixture
from lightning_modules.robustness.adaptive_smoothing.module import AdaptiveSmoothing, mixing_loss
from tests.robustness.adaptive_smoothing.small_mixture import images, normal, pair


def module(**options: Any) -> AdaptiveSmoothing:
    attack = TrainingAttack(epsilon=0.1, steps=4, num_targets=3)
    built = AdaptiveSmoothing(pair(), num_classes=4, **{"attack": attack, **options}).double()
    built.log = lambda *arguments, **given: None  # type: ignore[method-assign, assignment]
    built.trainer = SimpleNamespace(current_epoch=0)  # type: ignore[assignment]
    return built


def batch(count: int = 12) -> LabelledImageBatch:
    image, label = images(count)
    return {"image": image, "label": label, "index": torch.arange(count), "global_batch_size": count}


@pytest.mark.parametrize("weights", [(1.5, 0.0, 0.2), (1.0, 0.5, 0.1)])
def test_gradient_of_the_loss_is_the_closed_form(weights: tuple[float, float, float]) -> None:
    bce, ce, product = weights
    log_p, gamma = normal(8, 5).log_softmax(1), normal(8, seed=1).requires_grad_()
    label, attacked = torch.arange(8) % 5, (torch.arange(8) % 2).double()
    losses = mixing_loss(MixtureOutput(log_p, gamma, gamma.sigmoid()), label, attacked, bce, ce, product)
    (gradient,) = torch.autograd.grad(losses.mean(), gamma)
    of_label = -log_p.gather(1, label[:, None])[:, 0]
    torch.testing.assert_close(gradient, (bce + product * of_label) * (gamma.sigmoid() - attacked).detach() / 8)
    log_odds = torch.where(attacked == 1, -F.logsigmoid(gamma), -F.logsigmoid(-gamma))
    torch.testing.assert_close(losses, bce * log_odds + ce * of_label + product * log_odds * of_label)


def test_the_length_of_an_attack_is_drawn_for_each_run_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []

    def attack(mixture: Any, image: Tensor, *settings: Any) -> Tensor:
        lengths.append(settings[-1])
        return image

    monkeypatch.setattr("lightning_modules.robustness.adaptive_smoothing.module.randomised_attack", attack)
    built, runs = module(), []
    for seed in ("0", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        for number in range(6):
            built.training_step(batch(), number)
        runs.append(lengths[-6:])
    assert len(set(runs[0])) > 1
    assert runs[0] != runs[1]
    assert runs[1] == [drawn_steps(4, (1, 0, number)) for number in range(6)]


def test_a_step_trains_the_mixing_network_alone() -> None:
    built = module()
    built.train()
    before = {name: value.clone() for name, value in built.network.state_dict().items()}
    output = built.training_step(batch(), 0)
    output["loss"].backward()
    assert output["logits"].shape == (12, 4)
    assert not output["logits"].requires_grad
    assert built.network.training
    for part in (built.network.accurate, built.network.robust):
        assert not any(submodule.training for submodule in part.modules())
        assert all(parameter.grad is None for parameter in part.parameters())
    assert built.network.mixing_network is not None
    assert all(parameter.grad is not None for parameter in built.network.mixing_network.parameters())
    after = built.network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"normalization.running_mean", "normalization.running_var"}
    trained = {
        id(parameter) for group in built.configure_optimizers()[0][0].param_groups for parameter in group["params"]
    }
    assert trained == {id(parameter) for parameter in built.network.mixing_network.parameters()}


def test_a_step_has_the_loss_and_the_gradients_on_clean_and_attacked_images(monkeypatch: pytest.MonkeyPatch) -> None:
    built = module(ce_weight=0.5)
    built.train()
    given, mixing = batch(), built.network.mixing_network
    assert mixing is not None
    moved = (given["image"] + 0.05).clamp(0, 1)
    in_evaluation, seen = [], []

    def attack(mixture: Any, image: Tensor, *rest: Any) -> Tensor:
        in_evaluation.append(not built.network.normalization.training and not built.network.training)
        seen.append(mixture(image))
        return moved

    monkeypatch.setattr("lightning_modules.robustness.adaptive_smoothing.module.randomised_attack", attack)
    loss = built.training_step(given, 0)["loss"]
    assert in_evaluation == [True]
    gamma = (
        module().eval().network.mixture_output(given["image"]).gamma - 1.3 + 0.4
    )  # biases of evaluation and training
    torch.testing.assert_close(seen[0].gamma, gamma)
    torch.testing.assert_close(seen[0].alpha, gamma.sigmoid())
    # The same, computed with probabilities.
    g, h, image = built.network.accurate, built.network.robust, torch.cat([given["image"], moved])
    raw = mixing(torch.cat([g[:4](image), h[:4](image)], dim=1))[:, 0]  # type: ignore[index]
    mean, std = raw.detach().mean(), raw.detach().std()
    clamped = raw.clamp(mean - 0.6 * std, mean + 0.6 * std)
    gamma = 2 * (clamped - clamped.mean()) / (clamped.var(unbiased=False) + 1e-5).sqrt() + 0.4
    alpha, attacked = gamma.sigmoid(), torch.arange(24) >= 12
    mixed = (1 - alpha)[:, None] * g(image).softmax(1) + alpha[:, None] * h(image).softmax(1)
    ce = -mixed[torch.arange(24), given["label"].repeat(2)].log()
    bce = -torch.where(attacked, alpha, 1 - alpha).log()
    losses = 1.5 * bce + 0.5 * ce + 0.2 * bce * ce
    expected = losses.mean()
    torch.testing.assert_close(loss, expected)
    parameters = list(mixing.parameters())
    for found, closed in zip(*(torch.autograd.grad(one, parameters) for one in (loss, expected)), strict=True):
        torch.testing.assert_close(found, closed)


def test_what_is_certified_is_the_smoothed_robust_classifier_at_the_least_alpha() -> None:
    built = module()
    assert isinstance(built, SmoothedClassifier)
    assert isinstance(built, Classifier)
    assert isinstance(built, MixedClassifier)
    built.eval()
    image, _ = images(5)
    noise = normal(5, 1, 4, 4)
    votes = built.smoothed_logits(image.float(), noise.float(), 0.25)
    torch.testing.assert_close(votes, built.network.robust(image + 0.25 * noise)[None], rtol=1e-5, atol=1e-6)
    assert built.certified_radius([0.9], 0.25) == pytest.approx(0.25 * stats.norm.ppf(0.84 * 0.9))
    assert built.certified_radius([0.55], 0.25) < 0
    fixed = module(alpha=0.7)
    assert fixed.certified_radius([0.9], 0.25) == pytest.approx(float(smoothing_radius(0.9, 0.1, 0.7, 0.25)))
    assert module(alpha=0.5).certified_radius([1.0], 0.25) <= 0
    tight = module(alpha=0.7, radius="tight")
    assert tight.certified_radius([0.9], 0.25) > fixed.certified_radius([0.9], 0.25)
    assert module(alpha=0.5, radius="tight").certified_radius([0.999], 0.25) == -math.inf
    lipschitz = module(alpha=0.7, radius="lipschitz")
    constant = 1 / (0.25 * math.sqrt(2 * math.pi))
    assert lipschitz.certified_radius([0.9], 0.25) == pytest.approx((0.7 * 0.8 - 0.3) / (0.7 * 2 * constant))
    assert lipschitz.certified_radius([0.2], 0.25) < 0
    assert len({one.certificate for one in (built, fixed, tight, lipschitz)}) == 4


def test_every_attack_has_as_many_clean_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeating the clean images changes neither the batch-norm statistics nor their mean loss."""
    one, every = module(), module(attack=TrainingAttack(num_targets=3, every_kind=True))
    losses = []
    for built, copies in ((one, 1), (every, 4)):

        def attack(mixture: Any, image: Tensor, *rest: Any, copies: int = copies) -> Tensor:
            assert rest[1].every_kind is (copies == 4)
            return (image + 0.05).clamp(0, 1).repeat(copies, 1, 1, 1)

        monkeypatch.setattr("lightning_modules.robustness.adaptive_smoothing.module.randomised_attack", attack)
        built.train()
        output = built.training_step(batch(), 0)
        losses.append(output["loss"])
        assert output["logits"].shape == (12, 4)
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)  # the clamp uses the sample deviation


def test_the_evaluated_mixture_is_that_of_the_predictions() -> None:
    image = images(5)[0]
    for built in (module().eval(), module(alpha=0.9).eval()):
        torch.testing.assert_close(built.evaluated_mixture(image).log_probability, built(image))
    assert module(alpha=1.0).eval().evaluated_mixture(image).gamma.isinf().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_votes_of_weights_in_half_precision_are_counted(dtype: torch.dtype) -> None:
    """The noise is added in float32, and the noisy image is then rounded to the weights' precision."""
    built = module().to(dtype).eval()
    image, noise = images(5)[0].float(), normal(5, 1, 4, 4).float()
    votes = built.smoothed_logits(image, noise, 0.25)
    assert torch.equal(votes, built.network.robust((image + 0.25 * noise).to(dtype))[None])


@pytest.mark.parametrize("earlier", [{}, {"network._extra_state": torch.tensor([math.nan, 1.0, 1.0])}])
def test_a_checkpoint_does_not_change_alpha(earlier: dict[str, Tensor]) -> None:
    learned, fixed = module(), module(alpha=0.9)
    fixed.load_state_dict({**learned.state_dict(), **earlier})
    assert fixed.network.alpha == 0.9
    torch.testing.assert_close(fixed(images()[0]), fixed.mix(images()[0], 0.9).log_probability)


def test_more_targets_than_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"attack.num_targets must be in 0...3 with 4 classes, got 4"):
        module(attack=TrainingAttack(num_targets=4))


def test_without_a_mixing_network_alpha_is_given_and_nothing_is_trained() -> None:
    g, h = MLP(16, [4], 3), MLP(16, [4], 3)
    with pytest.raises(ValueError, match="alpha must be given"):
        AdaptiveSmoothing(Mixture(g, h), num_classes=3)
    without = AdaptiveSmoothing(Mixture(g, h, alpha=0.8), num_classes=3, attack=TrainingAttack(num_targets=0))
    assert not without.chooses_alpha
    assert without(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    with pytest.raises(ValueError, match="nothing to train"):
        without.setup("fit")
