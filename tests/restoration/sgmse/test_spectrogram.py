import pytest
import torch

from lightning_modules.restoration.sgmse.spectrogram import Spectrogram, as_channels, as_complex


def test_a_spectrogram_is_the_compressed_transform_and_leads_back() -> None:
    torch.manual_seed(0)
    signal, spectrogram = torch.randn(2, 32_640, dtype=torch.float64), Spectrogram()
    found = spectrogram.of(signal)
    assert found.shape == (2, 1, 256, 256)
    window = torch.hann_window(510, periodic=True, dtype=torch.float64)
    frame = torch.fft.rfft(window * signal[:, 3 * 128 - 255 : 3 * 128 + 255])
    torch.testing.assert_close(found[:, 0, :, 3], 0.15 * frame.abs().sqrt() * torch.exp(1j * frame.angle()))
    torch.testing.assert_close(spectrogram.signal(found, 32_640), signal, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 20, 32, 1000, 1001, 1279])
def test_a_signal_keeps_its_length(length: int) -> None:
    signal, spectrogram = torch.randn(1, length), Spectrogram(62, 16)
    torch.testing.assert_close(spectrogram.signal(spectrogram.of(signal), length), signal, rtol=0, atol=1e-5)


def test_parts_are_channels() -> None:
    first, second = torch.randn(2, 3, 1, 4, 5, dtype=torch.complex64)
    channels = as_channels(first, second)
    assert channels.shape == (3, 4, 4, 5)
    torch.testing.assert_close(channels[:, 3:], second.imag)
    torch.testing.assert_close(as_complex(channels[:, :2]), first)
    assert as_complex(channels[:, :2].bfloat16()).dtype == torch.complex64
