"""SGMSE+: enhance speech by a diffusion of its complex spectrogram that starts at the noisy one.

The process of `sde.ouve` carries the clean spectrogram x_0 to the noisy one y while noise grows. With t uniform on
[end, 1] and complex noise z, E|z|^2 = 1, a network estimates the score of x_t = mean(t) + std(t) z by

    L = mean over the batch of 1/2 sum |std(t) s(x_t, y, t) + z|^2,    s = -network([x_t, y], t),

a sum over frequencies and frames. A recording is enhanced from y + std(1) z: at each of N times from 1 to `end` come
Langevin steps of size 2 (r std(t))^2, then one step back of the process, the last one to t = 0, without its noise.
Amplitudes are compressed, and recordings divided by their loudest noisy sample.

As in the authors' code, the network's output is divided by the time t and not by the deviation (by the network itself,
`SpeechNCSNpp` or diffusers' UNet2DModel with Fourier features). Departures: their ODE sampler calls its last step
without a size, which fails; here it is `end`. Crops are divided by their loudest sample or, where they are silent, by
1e-8 (theirs by zero). Validation sums over all processes and recordings, theirs is the mean of the processes' means.
The average of the weights rises as torch_ema's is recalled to: min(decay, (1 + n) / (10 + n)) after n updates.

Source: Richter, Welker, Lemercier, Lay and Gerkmann, Speech Enhancement and Dereverberation with Diffusion-based
Generative Models, IEEE/ACM TASLP 2023, arXiv 2208.05830.
"""

from lightning_modules.restoration.sgmse.module import SGMSE
from lightning_modules.restoration.sgmse.spectral_regression import SpectralRegression

__all__ = ["SGMSE", "SpectralRegression"]
