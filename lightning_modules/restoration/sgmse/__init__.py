"""SGMSE+: speech enhancement by a diffusion of complex spectrograms that starts from the noisy spectrogram.

The OUVE process moves the clean spectrogram x_0 towards the noisy spectrogram y while the diffusion noise grows. With t
uniform on [end, 1] and complex noise z, E|z|^2 = 1, a network estimates the score of x_t = mean(t) + std(t) z by

    L = mean over the batch of 1/2 sum |std(t) s(x_t, y, t) + z|^2,    s = -network([x_t, y], t),

where the sum is over frequencies and frames. Sampling starts from y + std(1) z. At each of N times from 1 to `end`,
sampling takes Langevin steps of size 2 (r std(t))^2, then one reverse diffusion step. The final reverse step goes to t
= 0 without noise. Amplitudes are compressed, and recordings are normalised by the peak amplitude of the noisy
recording.

As in the authors' code, the output is divided by the time t, not by the standard deviation; the network itself does
this (`SpeechNCSNpp`, or diffusers' UNet2DModel with Fourier features). Departures: the authors' ODE sampler calls its
final step without a step size and fails; here the step size is `end`. Silent crops are divided by 1e-8; the authors'
code divides them by zero. Validation averages over all recordings; the authors' code averages the means of the ranks.
The decay of the averaged weights follows our recollection of torch_ema: min(decay, (1 + n) / (10 + n)) after n updates.

Source: Richter, Welker, Lemercier, Lay and Gerkmann, Speech Enhancement and Dereverberation with Diffusion-based
Generative Models, IEEE/ACM TASLP 2023, arXiv 2208.05830.
"""

from lightning_modules.restoration.sgmse.module import SGMSE
from lightning_modules.restoration.sgmse.spectral_regression import SpectralRegression

__all__ = ["SGMSE", "SpectralRegression"]
