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
