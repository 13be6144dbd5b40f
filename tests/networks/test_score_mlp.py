import torch

from lightning_modules.networks.score_mlp import ScoreMLP


def test_scores_are_divided_by_sigma_and_noise_is_not() -> None:
    torch.manual_seed(0)
    image, level = torch.rand(2, 1, 4, 4), torch.tensor([0.1, 10.0])
    network = ScoreMLP([1, 4, 4], width=8, depth=1)
    sigma = level.view(-1, 1, 1, 1)
    output = network(image, level)
    scaled = (2 * image - 1) / (1 + sigma**2).sqrt()
    expected = network.out(network.features(scaled, 250 * level.log())).view_as(image) / sigma
    torch.testing.assert_close(output, expected)
    noise = ScoreMLP([1, 4, 4], width=8, depth=1, told_sigma=False)
    torch.testing.assert_close(noise(image, level), noise.out(noise.features(image, level)).view_as(image))
    assert output.shape == image.shape


def test_a_skip_adds_a_multiple_of_the_input_that_depends_on_the_level_alone() -> None:
    torch.manual_seed(0)
    image, time = torch.rand(2, 1, 4, 4), torch.tensor([3.0, 700.0])
    network = ScoreMLP([1, 4, 4], width=8, depth=1, told_sigma=False, skip=True)
    added = network(image, time)
    gate, network.gate = network.gate, None
    ratio = (added - network(image, time)) / image
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert gate is not None
    assert not torch.allclose(ratio[0], ratio[1])
