import math

import pytest
import torch
from torch import Tensor

from lightning_modules.restoration.sgmse.module import Corrector
from tests.restoration.speech import batch, module


def test_a_steps_loss_and_gradient_are_those_of_the_equations() -> None:
    trained, given = module(), batch()
    torch.manual_seed(2)
    loss = trained.training_step(given, 0)["loss"]
    torch.manual_seed(2)
    t = 0.03 + 0.97 * torch.rand(3, dtype=torch.float64)
    z = torch.randn(3, 1, 8, 13, dtype=torch.complex128)
    total, growth = torch.zeros((), dtype=torch.float64), math.log(10)
    for row, time in enumerate(t.tolist()):
        f = given["noisy"][row].abs().max()
        y, x0 = (trained.spectrogram.of(given[key][row : row + 1] / f) for key in ("noisy", "clean"))
        mean = math.exp(-1.5 * time) * x0 + (1 - math.exp(-1.5 * time)) * y
        variance = 0.05**2 * math.exp(-3 * time) * (math.exp(2 * (1.5 + growth) * time) - 1) * growth / (1.5 + growth)
        x = mean + math.sqrt(variance) * z[row]
        output = trained.network(
            torch.cat([x.real, x.imag, y.real, y.imag], 1), torch.tensor([time], dtype=torch.float64)
        )
        score = -torch.complex(output[:, :1], output[:, 1:])
        total = total + 0.5 * (math.sqrt(variance) * score + z[row]).abs().square().sum() / 3
    assert float(loss.detach()) == pytest.approx(float(total.detach()))
    parameters = list(trained.network.parameters())
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_loss_of_the_exact_score_is_nothing() -> None:
    trained, given = module(), batch()

    def exact(x: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        f = given["noisy"].abs().amax(1, keepdim=True)
        clean = trained.spectrogram.of(given["clean"] / f)
        mean, deviation = trained.process.towards(noisy).kernel(clean, t)
        return -(x - mean) / deviation[:, None, None, None] ** 2

    trained.forward = exact
    assert float(trained.training_step(given, 0)["loss"]) < 1e-6


def test_a_louder_recording_is_enhanced_alike_and_each_by_its_own_noise() -> None:
    trained, given = module(), batch()
    estimate = trained.estimate(given)
    torch.testing.assert_close(trained.estimate({**given, "noisy": 3 * given["noisy"]}), 3 * estimate)
    alone = trained.estimate({**given, "noisy": given["noisy"][1:2], "index": torch.tensor([1])})
    torch.testing.assert_close(alone[0], estimate[1])
    assert estimate.shape == (3, 50)
    assert torch.isfinite(trained.estimate({**given, "noisy": torch.zeros(3, 50).double()})).all()  # silence
    seeded = [trained.enhance(given["noisy"], torch.Generator().manual_seed(5)) for _ in range(2)]
    torch.testing.assert_close(*seeded, rtol=0, atol=0)


def test_recordings_of_unequal_length_are_enhanced_together_as_each_alone() -> None:
    trained, given, lengths, seen = module(), batch(), [50, 48, 30], []
    trained.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for row, length in enumerate(lengths):
        for key in ("noisy", "clean"):
            given[key][row, length:] = 0
    together = trained.estimate({**given, "length": torch.tensor(lengths)})
    assert seen[:6] == [1] * 6  # the last recording alone, with exactly eight frames
    assert seen[6:] == [2] * 6
    for row, length in enumerate(lengths):
        alone = trained.estimate({"noisy": given["noisy"][row : row + 1, :length], "index": torch.tensor([row])})
        torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-12)
        assert (together[row, length:] == 0).all()


@pytest.mark.parametrize(
    ("options", "calls"), [({}, 6), ({"corrector": Corrector(0)}, 3), ({"corrector": Corrector(2)}, 9)]
)
def test_enhancement_calls_the_network_for_each_step(options: dict, calls: int) -> None:
    trained, times = module(**options), []
    trained.network.register_forward_pre_hook(lambda _, given: times.append(float(given[1][0])))
    trained.estimate(batch())
    assert len(times) == calls
    assert sorted(set(times), reverse=True) == pytest.approx([1, 0.515, 0.03])


def test_the_flow_draws_noise_at_its_start_alone() -> None:
    trained, drawn = module(sampler="flow"), []

    def draw(like: Tensor) -> Tensor:
        drawn.append(like.shape)
        return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(len(drawn)))

    noisy = trained.spectrogram.of(batch()["noisy"])[..., :12]
    assert trained.enhance_spectrogram(noisy, draw).shape == noisy.shape
    assert len(drawn) <= 2  # the draw of the last step is not part of its mean


def test_other_settings_of_the_sampler_are_measured_as_if_each_were_configured() -> None:
    trained, given = module(compared=[[1, 0], [2, 1]]), {**batch(), "sample_rate": 2000}
    outputs = trained.test_step(given, 0)
    torch.testing.assert_close(outputs["estimate"], module().estimate(given), rtol=0, atol=0)
    [means] = trained.quality.means().values()
    for steps, corrections in ((1, 0), (2, 1)):
        alone = module(num_steps=steps, corrector=Corrector(corrections))
        alone.test_step(given, 0)
        [expected] = alone.quality.means().values()
        assert means[f"steps_{steps}_corrector_{corrections}_si_sdr"] == expected["si_sdr"]
    table = trained.tables["sampler"].columns
    assert table["network evaluations"] == [1, 4, 6]
    assert table["SI-SDR in dB"][2] == pytest.approx(means["si_sdr"])
    assert table["SI-SDR in dB"][0] == pytest.approx(means["steps_1_corrector_0_si_sdr"])
    trained.validation_step(given, 0)
    assert not any("steps_" in key for key in next(iter(trained.quality.means().values())))  # only in tests
    with pytest.raises(ValueError, match="compared must be at least 1, got 0"):
        module(compared=[(0, 1)])
