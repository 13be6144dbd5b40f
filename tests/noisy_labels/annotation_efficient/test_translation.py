import copy

import pytest
import torch
from torch import Tensor, nn

from datamodules.segmentation.ellipses import Ellipses
from lightning_modules.networks.cycle_generator import ResNetGenerator, UNetGenerator
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.patch_discriminator import PatchDiscriminator
from lightning_modules.networks.shape_vae import ShapeVAE
from lightning_modules.noisy_labels.annotation_efficient.translation import (
    ChannelCalibration,
    Fakes,
    Translation,
    cycle_term,
    discriminator_loss,
    generator_terms,
    judged_false,
    judged_real,
)


def translation(shape: bool = True, calibrated: bool = True, mask_noise: float = 0.0) -> Translation:
    torch.manual_seed(0)
    return Translation(
        ResNetGenerator(1, 1, 4, 1),
        UNetGenerator(1, 1, 4, 2),
        PatchDiscriminator(1, 4, 2),
        PatchDiscriminator(1, 4, 2),
        MLP(3, [32], 1) if shape else None,
        mask_noise,
        calibrated,
    ).double()


def vae() -> ShapeVAE:
    torch.manual_seed(1)
    return ShapeVAE(32, 3, (4, 4, 4, 4)).double()


def images_and_masks(number: int = 3) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    image = 2 * torch.rand(number, 1, 32, 32, generator=random, dtype=torch.float64) - 1
    return image, Ellipses().masks(torch.arange(number), 32, seed=0)[:, None].double()


def test_at_first_calibration_leaves_everything_as_it_is() -> None:
    networks, (image, _) = translation(), images_and_masks()
    assert isinstance(networks.calibration, ChannelCalibration)
    assert torch.equal(networks.calibration(torch.randn(2, 16, 5, 5).double()), torch.ones(2, 4, 1, 1).double())
    assert torch.equal(networks(image), networks.mask_generator(image))


def test_calibration_is_the_two_passes_of_the_definition() -> None:
    networks, (image, _) = translation(), images_and_masks()
    assert networks.calibration is not None
    first, last = (layer for layer in networks.calibration.layers if isinstance(layer, nn.Conv2d))
    nn.init.normal_(last.weight)
    nn.init.normal_(last.bias)
    h = networks.mask_discriminator.forward_features(networks.mask_generator(image).sigmoid())  # type: ignore[operator]
    pooled = h.mean(dim=(2, 3))
    hidden = (pooled @ first.weight[:, :, 0, 0].T + first.bias).relu()
    a = (hidden @ last.weight[:, :, 0, 0].T + last.bias).sigmoid()
    seen: list[Tensor] = []
    handle = networks.mask_generator.last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    logits = networks(image)
    handle.remove()
    features = networks.mask_generator.forward_features(image)  # type: ignore[operator]
    torch.testing.assert_close(seen[-1], 2 * a[:, :, None, None] * features)
    assert not torch.allclose(logits, networks.mask_generator(image))


def test_nothing_flows_back_through_what_guides_the_calibration() -> None:
    networks, (image, _) = translation(), images_and_masks()
    assert networks.calibration is not None
    nn.init.normal_(networks.calibration.layers[-1].weight)  # type: ignore[arg-type]
    networks(image).sum().backward()
    assert all(parameter.grad is None for parameter in networks.mask_discriminator.parameters())
    assert all(parameter.grad is not None for parameter in networks.calibration.parameters())


def test_least_squares_terms() -> None:
    ones, zeros = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    assert judged_real(ones) == judged_false(zeros) == 0
    assert judged_real(zeros) == judged_false(ones) == 1
    assert judged_real(torch.tensor([3.0, 1.0])) == 2


def test_cycle_term_is_l1_plus_weighted_cross_entropy() -> None:
    image, again, logits = torch.randn(3, 2, 1, 4, 4, dtype=torch.float64)
    mask = (torch.rand(2, 1, 4, 4) < 0.5).double()
    p = logits.sigmoid()
    entropy = -(mask * p.log() + (1 - mask) * (1 - p).log()).mean()
    expected = (again - image).abs().mean() + 0.3 * entropy
    torch.testing.assert_close(cycle_term(again, image, logits, mask, 0.3), expected)
    far, zero = torch.full((1, 1, 2, 2), 60.0), torch.zeros(1, 1, 2, 2)  # here the probability rounds to 1
    assert cycle_term(zero, zero, far, zero, 1.0) == 60


def test_terms_and_their_gradients_are_those_of_the_definition() -> None:
    networks, shapes, (image, mask) = translation(), vae(), images_and_masks()
    terms, fakes = generator_terms(networks, shapes, image, mask, 0.5)
    made, drawn = networks(image).sigmoid(), networks.image_generator(mask).tanh()
    d_x, d_z, d_vae = networks.discriminators()
    expected = {
        "image": ((d_x(drawn) - 1) ** 2).mean(),
        "mask": ((d_z(made) - 1) ** 2).mean(),
        "cycle": cycle_term(networks.image_generator(made).tanh(), image, networks(drawn), mask, 0.5),
        "shape": ((d_vae(shapes.encode(made)[0]) - 1) ** 2).mean(),
    }
    torch.testing.assert_close(dict(terms), expected)
    torch.testing.assert_close(fakes, Fakes(made, drawn))
    generators = [*networks.mask_generator.parameters(), *networks.image_generator.parameters()]
    for name, term in terms.items():
        found, derived = (
            torch.autograd.grad(each, generators, retain_graph=True, allow_unused=True, materialize_grads=True)
            for each in (term, expected[name])
        )
        torch.testing.assert_close(found, derived)
    pairs = ((d_x, image, drawn), (d_z, mask, made), (d_vae, shapes.encode(mask)[0], shapes.encode(made)[0]))
    judged = sum(0.5 * ((d(real) - 1) ** 2).mean() + 0.5 * (d(false.detach()) ** 2).mean() for d, real, false in pairs)
    loss = discriminator_loss(networks, shapes, image, mask, fakes)
    torch.testing.assert_close(loss, judged)
    parameters = [p for d in networks.discriminators() for p in d.parameters()]
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(judged, parameters))


def changed(module: nn.Module) -> bool:
    return any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in module.parameters())


def test_each_step_moves_its_own_networks_alone() -> None:
    networks, shapes, (image, mask) = translation(), vae(), images_and_masks()
    generators = [networks.mask_generator, networks.image_generator]
    terms, fakes = generator_terms(networks, shapes, image, mask, 0.5)
    torch.stack(list(terms.values())).sum().backward()
    assert all(changed(network) for network in generators)
    assert not any(changed(network) for network in (*networks.discriminators(), shapes))
    networks.zero_grad()
    discriminator_loss(networks, shapes, image, mask, fakes).backward()
    assert all(changed(network) for network in networks.discriminators())
    assert not any(changed(network) for network in (*generators, shapes))
    assert all(parameter.requires_grad for parameter in [*networks.parameters(), *shapes.parameters()])


def test_one_step_of_both_is_cyclegans_two_steps() -> None:
    """The generators are updated with the old discriminators, then these on the images of the old generators."""
    networks, shapes, (image, mask) = translation(calibrated=False), vae(), images_and_masks()
    apart = copy.deepcopy(networks)
    descent = torch.optim.SGD(networks.parameters(), lr=0.1)
    terms, fakes = generator_terms(networks, shapes, image, mask, 0.5)
    (sum(terms.values()) + discriminator_loss(networks, shapes, image, mask, fakes)).backward()  # type: ignore[union-attr]
    descent.step()
    generators = [*apart.mask_generator.parameters(), *apart.image_generator.parameters()]
    first = torch.optim.SGD(generators, lr=0.1)
    second = torch.optim.SGD([p for d in apart.discriminators() for p in d.parameters()], lr=0.1)
    terms, fakes = generator_terms(apart, shapes, image, mask, 0.5)
    torch.stack(list(terms.values())).sum().backward()
    first.step()
    second.zero_grad()
    discriminator_loss(apart, shapes, image, mask, Fakes(*(fake.detach() for fake in fakes))).backward()
    second.step()
    for name, value in networks.state_dict().items():
        torch.testing.assert_close(apart.state_dict()[name], value, msg=name)


def test_noise_on_judged_masks_has_the_given_level() -> None:
    networks, seen = translation(mask_noise=0.3), []
    networks.mask_discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mask = torch.full((64, 1, 32, 32), 0.5, dtype=torch.float64)
    networks.judge_mask(mask)
    assert float((seen[0] - mask).std()) == pytest.approx(0.3, rel=0.02)


def test_networks_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(TypeError, match="mask_generator with forward_features, last, num_features, which Conv2d lacks"):
        Translation(*(nn.Conv2d(1, 1, 1) for _ in range(4)))
    assert Translation(*(nn.Conv2d(1, 1, 1) for _ in range(4)), calibrated=False).calibration is None
