"""One More Step (OMS) adds the initial sampling step that common diffusion noise schedules omit.

Noise schedules end at abar_T > 0. In training, the noisiest input x_T = sqrt(abar_T) x_0 + sqrt(1 - abar_T) e therefore
still reveals the mean colour of the image x_0. Samplers, however, start from pure noise x_S ~ N(0, I), which contains
no such information. As a result, samples drift to average brightness. In OMS, a small network V estimates x_0 from pure
noise, at abar_S = 0, where v = -x_0. The network is conditioned on a text c, but not on time:

    L = |V(x_S, c) + x_0|^2,   x_S ~ N(0, I) independent of x_0.

The minimiser of L is the negative conditional mean, -E[x_0 | c]. With classifier-free guidance, v = v_u + w (v_c -
v_u), and the estimate of x_0 is x~_0 = -v. Let a be the value of abar at the sampler's first timestep. The initial
latents are

    x = sqrt(a) x~_0 + sqrt(1 - a) e,   e ~ N(0, I).

If the argument `deviation` is set to s < sqrt(1 - a), a part of the noise is taken from x_S:

    x = sqrt(a) x~_0 + sqrt(1 - a - s^2) x_S + s e.

This second formula has not been compared with the paper.

The diffusion model and its scheduler are not changed. A network V works with all diffusion models that have the same
latent space. Its text c may differ from the prompt of the diffusion model; c then controls only the brightness.

The authors' code multiplies e by the variance 1 - a instead of the standard deviation sqrt(1 - a)
(`official_variance`). The authors have not published their training code. The loss L follows from the prediction of v.
The optimizer and the caption dropout were chosen for this implementation.

Source: Hu, Zheng, Zheng, Wang, Tao and Cham, One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion
Schedule Flaws and Enhancing Low-Frequency Controls, CVPR 2024, arXiv 2311.15744.
"""

from lightning_modules.diffusion.one_more_step.module import OneMoreStep as OneMoreStep
from lightning_modules.diffusion.one_more_step.networks import PromptedMLP as PromptedMLP
from lightning_modules.diffusion.one_more_step.networks import TimeFreeUNet as TimeFreeUNet
from lightning_modules.diffusion.one_more_step.networks import released_unet as released_unet
