"""StableNormal estimates surface normals with a diffusion model; the estimates hardly depend on the initial noise.

Two Stable Diffusion U-Nets are conditioned on the image's latent i through an encoder f (`control_encoders`). The first
U-Net, YOSO, predicts in one step the initial latents of the second U-Net, at the noise level of timestep t+. In
training, the input noise u of YOSO is replaced with zeros with probability lambda. YOSO therefore learns to ignore the
input noise:

    L_yoso = |x_{t+} - mu_theta(u, t+, f_phi(i))|^2,   u ~ N(0, I) or 0,   x_{t+} = sqrt(abar) x_0 + sqrt(1 - abar) e.

The second U-Net, SG-DRN, refines these latents by DDIM steps. SG-DRN is also conditioned on features d of a vision
transformer, through an encoder g, whose outputs are added to feature maps in the encoder of the U-Net:

    L_drn = |x_0 - mu_zeta(x_t, t, f_chi(i), g_psi(d))|^2,   t uniform.

Here x_0 is the latent of the normals, e is standard normal noise, and mu_theta and mu_zeta are the two U-Nets. The
module `refinement` defines the DDIM steps; half of them stay at t+. The fast "turbo" variant is YOSO alone, with t+ = 0
and the target x_0.

For surface reconstruction, `surface.heights` integrates normals to height maps, and `test` logs the error of these
maps.

The paper does not specify the batch size, the number of iterations and the training resolution. It also leaves two
other choices open. First, is the noise e in the target of YOSO independent of u? Here, it is; `yoso_target` selects
other interpretations. Second, latents that cover pixels without a normal are here excluded from the loss. Departures:
features are upsampled bilinearly, as in the authors' code, whereas the paper uses FeatUp. The noise of the refinement
steps is seeded by the seed of the run and the index of the image, whereas the authors' code does not seed this noise.
Normals are renormalised before and after resizing. timm resizes position embeddings with antialiasing, which the
authors' code does not use.

Source: Ye, Qiu, Gu, Zuo, Wu, Dong, Bo, Xiu and Han, StableNormal: Reducing Diffusion Variance for Stable and Sharp
Normal, ACM Transactions on Graphics 2024, arXiv 2406.16864. Steps and metrics follow the authors' code, which does not
include training.
"""

from lightning_modules.diffusion.stable_normal.conditioned_unet import ConditionedUNet, PixelUNet, ReleasedModel
from lightning_modules.diffusion.stable_normal.marigold import Marigold
from lightning_modules.diffusion.stable_normal.module import StableNormal
from lightning_modules.diffusion.stable_normal.patch_features import PatchFeatures

__all__ = ["ConditionedUNet", "Marigold", "PatchFeatures", "PixelUNet", "ReleasedModel", "StableNormal"]
