import pytest
import torch

from lightning_modules.restoration.sgmse.speech_ncsnpp import SpeechNCSNpp


def small() -> SpeechNCSNpp:
    torch.manual_seed(0)
    return SpeechNCSNpp(frequencies=16, width=8, multipliers=(1, 2), num_blocks=1, attention_sizes=(8,)).double()


def test_the_papers_network_has_its_parameters() -> None:
    with torch.device("meta"):
        network = SpeechNCSNpp()
    frequencies = network.body.embedding.weight.numel()  # random frequencies, which are not trained
    assert frequencies == 128
    assert sum(each.numel() for each in network.parameters()) - frequencies == 65_590_694


@pytest.mark.parametrize("frames", [2, 10])
def test_spectrograms_of_any_even_width(frames: int) -> None:
    made = small()(torch.randn(2, 4, 16, frames, dtype=torch.float64), torch.rand(2, dtype=torch.float64))
    assert made.shape == (2, 2, 16, frames)


def test_a_fresh_network_gives_the_bias_of_its_last_layer() -> None:
    network = small()
    made = network(torch.randn(1, 4, 16, 8, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(made, network.mix.bias[None, :, None, None].expand_as(made), rtol=0, atol=1e-3)


def test_the_body_is_divided_by_the_time() -> None:
    network = small()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, t = torch.randn(1, 4, 16, 8, dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)
    network.body.divide_by_level = False
    whole = network.body(x, t)
    network.body.divide_by_level = True
    torch.testing.assert_close(network(x, t), network.mix(whole / 0.25))
