import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.diffusion.score_sde import NoiseConditionalClassifier
from lightning_modules.interfaces import Classifier
from lightning_modules.sde.processes import VE, VP


class Linear(nn.Module):
    """A classifier whose logits depend on pixels and noise level; it stores the noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.x, self.sigma = x, sigma
        return self.linear(x.flatten(1)) / (1 + sigma[:, None])


def test_a_step_is_cross_entropy_of_diffused_images_with_its_gradient() -> None:
    for process, data in ((VE(), lambda image: image), (VP(), lambda image: 2 * image - 1)):
        torch.manual_seed(0)
        network = Linear().double()
        module = NoiseConditionalClassifier(network, 3, process).double()
        assert isinstance(module, Classifier)
        batch = {
            "image": torch.rand(5, 1, 2, 2).double(),
            "label": torch.tensor([0, 1, 2, 0, 1]),
            "global_batch_size": 5,
        }
        torch.manual_seed(1)
        loss = module.training_step(batch, 0)["loss"]  # type: ignore[arg-type]
        torch.manual_seed(1)
        t = 1e-5 + (1 - 1e-5) * torch.rand(5, dtype=torch.float64)
        mean, deviation = process.kernel(data(batch["image"]), t)
        noisy = mean + deviation.view(-1, 1, 1, 1) * torch.randn(5, 1, 2, 2, dtype=torch.float64)
        torch.testing.assert_close(network.x, noisy)
        torch.testing.assert_close(network.sigma, deviation)
        expected = F.cross_entropy(network(noisy, deviation), batch["label"])
        torch.testing.assert_close(loss, expected)
        gradients = [torch.autograd.grad(value, network.linear.weight)[0] for value in (loss, expected)]
        torch.testing.assert_close(*gradients)


def test_clean_images_are_classified_at_the_smallest_noise() -> None:
    network = Linear()
    NoiseConditionalClassifier(network, 3, VE(0.01, 50.0))(torch.full((2, 1, 2, 2), 0.25))
    assert network.x.tolist() == [[[[0.25] * 2] * 2]] * 2
    torch.testing.assert_close(network.sigma, torch.tensor([0.01, 0.01]), rtol=1e-3, atol=0)
