"""DiffusionGuard: adversarial noise that protects photographs from diffusion-based inpainting.

An editor keeps a region K of an image x, and starts from pure noise z at time t_0. Protection solves

    max_d  || e_theta(cat[z, m, y(x + d)], t_0, empty prompt) ||_2   subject to  ||d||_inf <= epsilon.

Here m is the mask of the repainted part. y(x + d) is the encoding of the image after blanking the repainted part. Each
iteration samples z, the latent noise and a deformed region K (see `attack`). It then takes a step along the sign of the
gradient inside K:

    d <- clip(d + a sign(mean_r grad_r) K, -epsilon, epsilon),   and x + d is clipped to [0, 1].

Budgets are in pixel units. The code of the authors has epsilon 16/255 and a = 1/255 on images in [-1, 1]. The values
here are half as large (the paper says 16/255). The code of the authors maximises the norm of a batch of copies of one
image. Here the objective is the sum of the norms of the images. Its gradient has the same signs. As in the code, t_0 is
the first of four timesteps; the paper writes T.

Other objectives: `encoder` (PhotoGuard, Salman et al., ICML 2023: pull the blanked image's encoding towards a grey
image's), `denoising_error` (AdvDM, Liang et al., ICML 2023: raise the training loss at random t), and `random` signs
without gradient.

Source: Choi et al., DiffusionGuard: A Robust Defense Against Malicious Diffusion-based Image Editing, ICLR 2025, arXiv
2410.05694, Equation 4 and Algorithm 1.
"""

from lightning_modules.robustness.diffusion_guard.inpainting import PixelInpainter, StableDiffusionInpainter
from lightning_modules.robustness.diffusion_guard.module import DiffusionGuard

__all__ = ["DiffusionGuard", "PixelInpainter", "StableDiffusionInpainter"]
