import torch

from lightning_modules.restoration.sgmse import SpectralRegression
from tests.restoration.speech import batch, module


def test_regression_is_trained_on_the_squared_difference() -> None:
    trained, given = module(SpectralRegression), batch()
    f = given["noisy"].abs().amax(1, keepdim=True)
    noisy, clean = (trained.spectrogram.of(given[key] / f) for key in ("noisy", "clean"))
    channels = torch.cat([noisy.real, noisy.imag] * 2, dim=1)
    output = trained.network(channels, torch.ones(3))
    expected = ((output[:, :1] - clean.real) ** 2 + (output[:, 1:] - clean.imag) ** 2).sum() / 3
    loss = trained.training_step(given, 0)["loss"]
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(each, list(trained.parameters())) for each in (loss, expected)))
    assert trained.estimate(given).shape == (3, 50)


def test_recordings_are_enhanced_without_a_trainer_as_in_a_step() -> None:
    trained, given = module(SpectralRegression), batch()
    assert torch.equal(trained.enhance(given["noisy"]), trained.estimate(given))
