"""Golden noise: a network improves the initial noise of a diffusion model for a given prompt.

A DDIM step with guidance w_l (prediction e1), followed by an inversion step with guidance w_w (prediction e2), turns
x_T into better noise. Both steps evaluate the model at the first timestep t_0. The steps use r = sqrt(abar_1 / abar_0)
and d = sqrt(1 - abar_1) - r sqrt(1 - abar_0) < 0:

    x_1 = r x_T + d e1(x_T, t_0),   x'_T = x_T + (d / r) (e1(x_T, t_0) - e2(x_1, t_0)).

A pair is kept if the image from x'_T has the higher reward, s' > s + m. NPNet learns to predict x'_T from x_T and the
text c,

    phi(x, c) = SVD(x) + (2 sigmoid(alpha) - 1) e + beta R(x + e),   L = |phi(x_T, c) - x'_T|^2,
    e = (1 + a(c)) GroupNorm(x) + b(c),
    SVD(x) = U diag(s + f(U, s, V)) V^T of the folded x = U diag(s) V^T.

R is an image network, and f(U, s, V) = mlp4(mean attention(mlp1(U^T) + mlp2(V^T) + mlp3(s))). alpha and beta are
initialised to 0. An unmodified pipeline accepts phi(x_T, c) as its argument `latents`.

The paper does not use flow-matching models. Here, they take Euler steps in place of DDIM steps: with the velocity v and
the second sampling time t, z_t = x_T + (t - 1) v1(x_T, 1) and x'_T = x_T + (1 - t) (v2(z_t, 1) - v1(x_T, 1)).

Departures: the authors' script inverts between the levels of the third and second timestep, because diffusers' inverse
scheduler indexes its timesteps this way since version 0.22 (`official_offset`). The script embeds one text for a whole
batch. The authors' training code omits the attention that their inference code uses (`attention`). The signs of their
singular vectors depend on the machine (`fixed_signs`). Their script has an option to repeat both steps, off by default,
which is not implemented here. Four channels are folded to 2 x 2 tiles; other square numbers of channels are folded in
the same way.

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
