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

Other objectives:

* `encoder` and `edit`, the two attacks of PhotoGuard (Salman et al., ICML 2023): pull the encoding of the blanked
  image, or the result of a whole edit, towards a grey image. Here the edit has no guidance and is compared in latent
  space;
* `denoising_error` (AdvDM, Liang et al., ICML 2023): raise the training loss at random t;
* `mist` (Liang and Wu, 2023, arXiv 2305.12683): AdvDM with weight 10^4, and the encoding is pulled towards an image of
  stripes, which stands for the image of the authors;
* `random` signs without gradient.

PhotoGuard, AdvDM and Mist ignore masks. With `augmentation: global`, their attacks see and change the whole image.

Source: Choi et al., DiffusionGuard: A Robust Defense Against Malicious Diffusion-based Image Editing, ICLR 2025, arXiv
2410.05694, Equation 4 and Algorithm 1.
"""

from lightning_modules.robustness.diffusion_guard.inpainting import PixelInpainter, StableDiffusionInpainter
from lightning_modules.robustness.diffusion_guard.module import DiffusionGuard
from lightning_modules.robustness.diffusion_guard.purification import JPEG, CropAndResize, MedianFilter

__all__ = ["JPEG", "CropAndResize", "DiffusionGuard", "MedianFilter", "PixelInpainter", "StableDiffusionInpainter"]
