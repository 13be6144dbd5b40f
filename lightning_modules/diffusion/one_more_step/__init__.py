"""One More Step (OMS) takes a learned step before a diffusion model's first one, which common schedules leave out.

Schedules end at abar_T > 0, so in training x_T = sqrt(abar_T) x_0 + sqrt(1 - abar_T) e still shows the mean colour of
x_0, and samplers begin with x_S ~ N(0, I), which does not: samples drift to average brightness. A small network that is
told a text c, but no time, estimates x_0 of pure noise at abar_S = 0, as v = -x_0:

    L = |V(x_S, c) + x_0|^2,   x_S ~ N(0, I) independent of x_0.

Its minimiser is the conditional mean, -E[x_0 | c]. With classifier-free guidance v = v_u + w (v_c - v_u), x~_0 = -v,
and abar = a at the first time that the sampler visits, it begins with

    x = sqrt(a) x~_0 + sqrt(1 - a) e,   e ~ N(0, I),

or, where `deviation` is s < sqrt(1 - a), with x_S as a part of its noise,

    x = sqrt(a) x~_0 + sqrt(1 - a - s^2) x_S + s e,

a form that was recalled and not checked against the paper.

Neither the model nor its scheduler is changed; one network serves all models of the same latents. The text may be
another one than the model's, which then says the brightness alone.

The authors' code multiplies e by the variance 1 - a, not by its root (`official_variance`). No training code is public:
the loss is forced by the parameterisation; optimizer and dropped captions are choices of the method's card.

Source: Hu, Zheng, Zheng, Wang, Tao and Cham, One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion
Schedule Flaws and Enhancing Low-Frequency Controls, CVPR 2024, arXiv 2311.15744.
"""

from lightning_modules.diffusion.one_more_step.module import OneMoreStep as OneMoreStep
from lightning_modules.diffusion.one_more_step.networks import PromptedMLP as PromptedMLP
from lightning_modules.diffusion.one_more_step.networks import TimeFreeUNet as TimeFreeUNet
