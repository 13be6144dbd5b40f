"""One More Step (OMS) adds the initial sampling step that common diffusion noise schedules omit.

Schedules end at abar_T > 0, so in training x_T = sqrt(abar_T) x_0 + sqrt(1 - abar_T) e still contains the mean colour
of x_0. Samplers start from x_S ~ N(0, I), which contains no mean colour. As a result, samples drift to average
brightness. A small network estimates x_0 from pure noise at abar_S = 0, where v = -x_0. The network is conditioned on a
text c, but not on time:

    L = |V(x_S, c) + x_0|^2,   x_S ~ N(0, I) independent of x_0.

The minimiser of L is the conditional mean, -E[x_0 | c]. Classifier-free guidance gives v = v_u + w (v_c - v_u) and x~_0
= -v. Let a be abar at the first timestep of the sampler. Then, the initial latents are

    x = sqrt(a) x~_0 + sqrt(1 - a) e,   e ~ N(0, I).

If `deviation` is set to s < sqrt(1 - a), a part of the noise is taken from x_S:

    x = sqrt(a) x~_0 + sqrt(1 - a - s^2) x_S + s e.

This second form has not been checked against the paper.

The diffusion model and its scheduler are not changed. One network works with all models that have the same latent
space. The text c for this network may differ from the prompt of the diffusion model; c then controls brightness only.

The authors' code multiplies e by the variance 1 - a instead of its square root (`official_variance`). The authors have
not published their training code. The loss follows from the parameterisation; the optimizer and caption dropout were
chosen for this implementation.

Source: Hu, Zheng, Zheng, Wang, Tao and Cham, One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion
Schedule Flaws and Enhancing Low-Frequency Controls, CVPR 2024, arXiv 2311.15744.
"""

from lightning_modules.diffusion.one_more_step.module import OneMoreStep as OneMoreStep
from lightning_modules.diffusion.one_more_step.networks import PromptedMLP as PromptedMLP
from lightning_modules.diffusion.one_more_step.networks import TimeFreeUNet as TimeFreeUNet
from lightning_modules.diffusion.one_more_step.networks import released_unet as released_unet
