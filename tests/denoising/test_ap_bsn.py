import pytest
import torch

from lightning_modules.denoising.ap_bsn import APBSN
from tests.denoising.steps import gradient_of_a_step, small_network


@pytest.mark.parametrize("stride", [1, 3])
def test_a_step_compares_every_sub_image_with_itself(stride: int) -> None:
    module, noisy = APBSN(small_network(module_relu=False), stride=stride), torch.rand(2, 3, 12, 12).double()
    loss, found = gradient_of_a_step(module, noisy)
    slices = [
        (slice(None), slice(None), slice(r, None, stride), slice(c, None, stride))
        for r in range(stride)
        for c in range(stride)
    ]
    expected = torch.stack([(module.network(noisy[part]) - noisy[part]).abs().mean() for part in slices]).mean()
    assert loss == pytest.approx(float(expected.detach()), abs=1e-12)
    wanted = torch.autograd.grad(expected, list(module.parameters()))
    for (name, have), want in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=1e-12, msg=name)


def test_a_perturbation_is_new_noise_of_the_training_images() -> None:
    noisy, seen = torch.zeros(64, 3, 12, 12).double(), list[torch.Tensor]()
    module = APBSN(small_network(module_relu=False), stride=1, perturbation=0.3)
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    losses = [gradient_of_a_step(module, noisy)[0] for _ in range(2)]
    assert float(seen[0].std()) == pytest.approx(0.3, abs=0.01)
    assert abs(float((seen[0] * seen[1]).mean())) < 0.01 * 0.3
    for loss, given in zip(losses, seen[:2], strict=True):
        assert loss == pytest.approx(float((module.network(given) - given).abs().mean().detach()), abs=1e-12)


def test_sub_images_of_the_stride_of_use_are_denoised() -> None:
    module, image = APBSN(small_network(module_relu=False), stride=3, test_stride=2), torch.rand(1, 3, 9, 12).double()
    padded = torch.cat([image, image[:, :, 7:8]], dim=2)
    estimate = module.restore(image)
    for row in range(2):
        for column in range(2):
            expected = module.network(padded[:, :, row::2, column::2])[:, :, : (9 - row + 1) // 2]
            torch.testing.assert_close(estimate[:, :, row::2, column::2], expected, rtol=0, atol=1e-12)
