"""DiffusionGuard: adversarial noise that protects photographs from diffusion-based inpainting.

An editor keeps a region K of an image x and repaints the rest. The diffusion model starts from pure noise z at timestep
t_0. The protection d solves

    max_d  || e_theta(cat[z, m, y(x + d)], t_0, empty prompt) ||_2   subject to  ||d||_inf <= epsilon.

Here m is the mask of the repainted part, and y(x + d) is the encoding of the image in which the repainted part is
blanked. Each iteration samples three random quantities: z, the encoder's noise, and a deformed region K (see
`attack.py`). It then averages the gradient over r samples of the noise, and takes a step along the sign of this mean
inside K:

    d <- clip(d + a sign(mean_r grad_r) K, -epsilon, epsilon),   and x + d is clipped to [0, 1].

Budgets are in pixel units. The authors' code uses epsilon = 16/255 and a = 1/255 for images in [-1, 1]. The values here
are half as large, because images are in [0, 1]. (The paper states 16/255.) The authors' code maximises the norm over a
batch of copies of one image. Here, the objective is the sum of the norms of the images; its gradient has the same
signs. As in the authors' code, t_0 is the first of four timesteps; in the paper, it is T.

Other objectives:

* `encoder` and `edit`, the two attacks of PhotoGuard (Salman et al., ICML 2023): move the encoding of the blanked image
  (`encoder`), or the result of a whole edit (`edit`), towards a grey image. Here, the edit has no guidance, and its
  result is compared with the grey image in latent space;
* `denoising_error` (AdvDM, Liang et al., ICML 2023): increase the training loss at random timesteps;
* `mist` (Liang and Wu, 2023, arXiv 2305.12683): increase the AdvDM loss with weight 10^4, and move the encoding towards
  a target image. An image of stripes replaces the authors' target image;
* `random`: add noise of random signs, without computing a gradient.

The published PhotoGuard, AdvDM and Mist ignore masks. `augmentation: global` reproduces this: the attacks then use and
change the whole image.

Source: Choi et al., DiffusionGuard: A Robust Defense Against Malicious Diffusion-based Image Editing, ICLR 2025, arXiv
2410.05694, Equation 4 and Algorithm 1.
"""

from lightning_modules.robustness.diffusion_guard.inpainting import PixelInpainter, StableDiffusionInpainter
from lightning_modules.robustness.diffusion_guard.module import DiffusionGuard
from lightning_modules.robustness.diffusion_guard.purification import JPEG, CropAndResize, MedianFilter

__all__ = ["JPEG", "CropAndResize", "DiffusionGuard", "MedianFilter", "PixelInpainter", "StableDiffusionInpainter"]
