"""Golden noise: a network (NPNet) improves the initial noise of a diffusion model for a given prompt.

The training targets are computed in two steps. A DDIM step with guidance scale w_l (prediction e1) and an inversion
step with guidance scale w_w (prediction e2) turn noise x_T into better noise x'_T. Both steps evaluate the model at the
first timestep t_0. With r = sqrt(abar_1 / abar_0) and d = sqrt(1 - abar_1) - r sqrt(1 - abar_0) < 0, the steps are

    x_1 = r x_T + d e1(x_T, t_0),   x'_T = x_T + (d / r) (e1(x_T, t_0) - e2(x_1, t_0)).

A pair (x_T, x'_T) is kept if the reward s' of the image from x'_T exceeds the reward s of the image from x_T by more
than a margin m, s' > s + m. NPNet, phi, learns to predict x'_T from x_T and the text c:

    phi(x, c) = SVD(x) + (2 sigmoid(alpha) - 1) e + beta R(x + e),   L = |phi(x_T, c) - x'_T|^2,
    e = (1 + a(c)) GroupNorm(x) + b(c),
    SVD(x) = U diag(s + f(U, s, V)) V^T of the folded x = U diag(s) V^T.

Here R is an image network, and f(U, s, V) = mlp4(mean attention(mlp1(U^T) + mlp2(V^T) + mlp3(s))). The parameters alpha
and beta are initialised to 0. An unmodified pipeline accepts phi(x_T, c) as its argument `latents`.

The paper does not use flow-matching models. This code supports them, and replaces the DDIM steps with Euler steps. With
the velocities v1 (guidance scale w_l) and v2 (w_w) and the second sampling time t, the steps are z_t = x_T + (t - 1)
v1(x_T, 1) and x'_T = x_T + (1 - t) (v2(z_t, 1) - v1(x_T, 1)).

Departures: the authors' script inverts between the noise levels of the third and the second timestep, because
diffusers' inverse scheduler has indexed its timesteps in this way since version 0.22 (`official_offset`). The authors'
script embeds one text for a whole batch. Their training code omits the attention that their inference code uses
(`attention`). In their code, the signs of singular vectors depend on the machine (`fixed_signs`). Their script has an
option to repeat both steps, which is off by default and is not implemented here. The authors' code folds four channels
to 2 x 2 tiles; this code folds any square number of channels in the same way.

Source: Zhou, Shao, Bai, Zhang, Xu, Han and Xie, Golden Noise for Diffusion Models: A Learning Framework, ICCV 2025,
arXiv 2411.09502.
"""

from lightning_modules.diffusion.golden_noise.image_reward import ImageReward as ImageReward
from lightning_modules.diffusion.golden_noise.module import GoldenNoise as GoldenNoise
from lightning_modules.diffusion.golden_noise.npnet import NPNet as NPNet
from lightning_modules.diffusion.golden_noise.npnet import with_released_weights as with_released_weights
from lightning_modules.diffusion.golden_noise.preference_score import MPS as MPS
from lightning_modules.diffusion.golden_noise.rewards import AestheticReward as AestheticReward
from lightning_modules.diffusion.golden_noise.rewards import ClassProbability as ClassProbability
from lightning_modules.diffusion.golden_noise.rewards import CLIPReward as CLIPReward
