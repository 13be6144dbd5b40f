import math
from typing import Any

import pytest
import scipy.stats
import torch
from scipy.integrate import quad

from datamodules.classification.digits import Digits
from datamodules.classification.labelled_images import LabelledImages
from datamodules.loading import Loading
from lightning_modules.probabilistic.scale_mixture_nngp import (
    Burr,
    ConvolutionalNetwork,
    DenseNetwork,
    FixedScale,
    InverseGamma,
    NetworkKernel,
    ScaleMixtureClassifier,
)
from lightning_modules.probabilistic.scale_mixture_nngp.architectures import Architecture
from lightning_modules.probabilistic.scale_mixture_nngp.classification import in_proportion
from lightning_modules.probabilistic.scale_mixture_nngp.posterior import Scale
from tests.trainers import quiet, standing


def classifier(scale: Scale | None = None, network: Architecture | None = None, **options: Any) -> Any:
    kernel = NetworkKernel(network or DenseNetwork(1))
    given = {"inducing": 12, "draws": 8, "evaluation_draws": 600, **options}
    return ScaleMixtureClassifier(kernel, 10, [1, 8, 8], scale or InverseGamma(), **given)


@pytest.mark.parametrize("scale", [InverseGamma(1.0, 0.5), FixedScale()])
def test_a_draw_has_one_scale_for_all_classes(scale: Scale) -> None:
    """With two classes, one scale makes the difference of the outputs t-distributed or normal.

    A probability is the mean of the logistic function of this difference. With one scale per class, the error would be
    three times the tolerance.
    """
    module = ScaleMixtureClassifier(NetworkKernel(DenseNetwork(1)), 2, [1, 2, 2], scale, inducing=3)
    mean, variance = torch.tensor([[1.0, -0.4]]).double(), torch.tensor([[0.7, 9.0]]).double()
    torch.manual_seed(0)
    with torch.no_grad():
        probability = module._draw(mean, variance, 400_000).exp().mean(1)[0, 0]
    spread = math.sqrt(9.7)
    law: Any = (
        scipy.stats.norm(1.4, spread) if isinstance(scale, FixedScale) else scipy.stats.t(2, 1.4, spread * 0.5**0.5)
    )
    expected = quad(lambda f: law.pdf(f) / (1 + math.exp(-f)), -300, 300, limit=500, points=[0.0])[0]
    assert float(probability) == pytest.approx(expected, abs=2.5e-3)


def test_the_step_is_misfit_and_divergence_and_its_gradient_is_right() -> None:
    torch.manual_seed(0)
    module = classifier(network=ConvolutionalNetwork(1), jitter=0.1)
    module.trainer = standing(datamodule=type("Data", (), {"num_train_samples": 50})())
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    with torch.no_grad():
        module.inducing.normal_()
        module.inducing_mean.normal_()
    batch: Any = {"image": torch.rand(6, 1, 8, 8).double(), "label": torch.arange(6), "index": torch.arange(6)}
    batch["global_batch_size"] = 6

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        return module.training_step(batch, 0)["loss"]

    loss().backward()
    assert logged["train/loss"] == pytest.approx(logged["train/misfit"] + logged["train/divergence"])
    for name, raw in module.named_parameters():
        if not raw.requires_grad or name == "scale.a.raw":  # a gamma variate has an implicit gradient
            continue
        direction = torch.randn_like(raw)
        ends = []
        for move in (1e-6, -2e-6):
            with torch.no_grad():
                raw += move * direction
            ends.append(float(loss().detach()))
        with torch.no_grad():
            raw += 1e-6 * direction
        slope = float((raw.grad * direction).sum())
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_inducing_inputs_begin_as_first_images_and_a_fit_classifies() -> None:
    data = LabelledImages(Digits(train_size=200), batch_size=50, loading=Loading(seed=0))
    module = classifier(inducing=20, optimizer=lambda p: torch.optim.Adam(p, 0.0))
    quiet(precision="64-true", max_epochs=1).fit(module, data)
    source = data.images.training()
    chosen = in_proportion(source.label, 10, 20).sort().values
    assert torch.equal(module.inducing.detach(), (source.image[chosen].double() / 16 - 0.5) / 0.5)
    before = module.inducing.detach().clone()
    module.optimizer = lambda p: torch.optim.Adam(p, 0.02)
    trainer = quiet(precision="64-true", max_epochs=12)
    trainer.fit(module, data)
    assert (module.inducing.detach() - before).abs().max() < 1  # they continue from their earlier values
    result = trainer.test(module, data, verbose=False)[0]
    assert result["test/accuracy"] > 0.7
    image = data.images.test().image[:5].double() / 16
    with torch.no_grad():
        torch.testing.assert_close(module(image).exp().sum(1), torch.ones(5).double())


def test_proportions_are_those_of_the_classes() -> None:
    label = torch.tensor([0] * 6 + [2] * 3 + [3])
    chosen = in_proportion(label, 4, 5)
    assert chosen.tolist() == [0, 1, 2, 6, 7]  # 3, 0, 1.5 and 0.5: the first class wins ties
    with pytest.raises(ValueError, match="inducing must be at most the number of training images, 10, got 11"):
        in_proportion(label, 4, 11)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be InverseGamma or FixedScale for classification, got Burr"):
        classifier(Burr())
    module = classifier()
    module.trainer = standing(precision="32-true")
    with pytest.raises(ValueError, match=r"trainer.precision must be 64-true for ScaleMixtureClassifier, got 32-true"):
        module.setup("fit")
