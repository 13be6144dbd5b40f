"""Golden noise: a network gives a diffusion model's first noise that is better for its text.

A step of DDIM with guidance w_l, e1, and one back with guidance w_w, e2, which the model is asked for at the first time
again, make better noise of x_T. With r = sqrt(abar_1 / abar_0) and d = sqrt(1 - abar_1) - r sqrt(1 - abar_0) < 0,

    x_1 = r x_T + d e1(x_T, t_0),   x'_T = x_T + (d / r) (e1(x_T, t_0) - e2(x_1, t_0)).

Pairs are kept where the image of x'_T has the larger score, s' > s + m. NPNet learns x'_T of x_T and the text c,

    phi(x, c) = SVD(x) + (2 sigmoid(alpha) - 1) e + beta R(x + e),   L = |phi(x_T, c) - x'_T|^2,
    e = (1 + a(c)) GroupNorm(x) + b(c),
    SVD(x) = U diag(s + f(U, s, V)) V^T of the folded x = U diag(s) V^T,

with a network R of images, and f(U, s, V) = mlp4(mean attention(mlp1(U^T) + mlp2(V^T) + mlp3(s))). alpha = beta = 0 at
first. An unmodified pipeline then begins with phi(x_T, c) as its `latents`.

Where things differ: the authors' script steps back between the levels of the third and the second time, as the inverse
scheduler of diffusers counts since version 0.22 (`official_offset`); it embeds one text for a whole batch; its training
leaves the attention out that its inference has (`attention`); and signs of singular vectors are as the machine gives
them (`fixed_signs`). Their script may repeat both steps, which it does not by default and this project never. With four
channels the fold has two rows and columns of images; other square numbers fold alike.

Source: Zhou, Shao, Bai, Zhang, Xu, Han and Xie, Golden Noise for Diffusion Models: A Learning Framework, ICCV 2025,
arXiv 2411.09502.
"""

from lightning_modules.diffusion.golden_noise.module import GoldenNoise as GoldenNoise
from lightning_modules.diffusion.golden_noise.npnet import NPNet as NPNet
from lightning_modules.diffusion.golden_noise.npnet import with_released_weights as with_released_weights
from lightning_modules.diffusion.golden_noise.rewards import ClassProbability as ClassProbability
from lightning_modules.diffusion.golden_noise.rewards import CLIPReward as CLIPReward
