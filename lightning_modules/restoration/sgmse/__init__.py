"""SGMSE+: speech enhancement by a diffusion of complex spectrograms.

The OUVE process (see `ouve.py`) moves the clean spectrogram x_0 towards the noisy spectrogram y, while the diffusion
noise grows. Let t be uniform on [end, 1], and let z be complex noise with E|z|^2 = 1. A network estimates the score of
x_t = mean(t) + std(t) z by minimising

    L = mean over the batch of 1/2 sum |std(t) s(x_t, y, t) + z|^2,    s = -network([x_t, y], t),

where the sum is over frequencies and frames. Sampling starts at y + std(1) z, the noisy spectrogram plus noise, and
proceeds over a grid of N time points t from 1 to `end`. At each time point, sampling takes Langevin steps of size 2 (r
std(t))^2, where r is the argument `snr`, and then one reverse diffusion step. The final reverse step goes to t = 0
without noise. The amplitudes of spectrograms are compressed. Clean and noisy recordings are divided by the peak
amplitude of the noisy recording.

As in the authors' code, the network's output is divided by the time t instead of the standard deviation. This division
is part of the network (`SpeechNCSNpp`, or UNet2DModel of diffusers with Fourier features). Departures: the authors' ODE
sampler calls its final step without a step size, and fails. Here, the step size is `end`. Silent crops are divided by
1e-8; the authors' code divides them by zero. Validation averages over all recordings; the authors' code averages the
means of the ranks. The decay of the averaged weights follows our recollection of torch_ema: after n updates, it is
min(decay, (1 + n) / (10 + n)).

Source: Richter, Welker, Lemercier, Lay and Gerkmann, Speech Enhancement and Dereverberation with Diffusion-based
Generative Models, IEEE/ACM TASLP 2023, arXiv 2208.05830.
"""

from lightning_modules.restoration.sgmse.module import SGMSE
from lightning_modules.restoration.sgmse.published_weights import sgmse_weights
from lightning_modules.restoration.sgmse.spectral_regression import SpectralRegression

__all__ = ["SGMSE", "SpectralRegression", "sgmse_weights"]
