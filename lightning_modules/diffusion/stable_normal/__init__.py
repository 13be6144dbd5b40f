"""StableNormal estimates surface normals by a diffusion model whose result hardly depends on the noise it starts with.

Two U-Nets of Stable Diffusion see the latent i of the image by an encoder f (`control_encoders`). The first one, YOSO,
makes a start of noise in one step, at the noise level t+ of the second; it learns to do without the noise, as it is
given zeros instead with probability lambda:

    L_yoso = |x_{t+} - mu_theta(u, t+, f_phi(i))|^2,   u ~ N(0, I) or 0,   x_{t+} = sqrt(abar) x_0 + sqrt(1 - abar) e.

The second one, SG-DRN, refines the start by steps of DDIM. It is guided by the features d of a vision transformer, by
g, whose outputs are added inside the U-Net's encoder:

    L_drn = |x_0 - mu_zeta(x_t, t, f_chi(i), g_psi(d))|^2,   t uniform,

x_0 is the latent of the normals. The steps, half of which stay at t+, are those of `refinement`. YOSO alone, with
t+ = 0 and x_0 for its target, is the fast variant, called turbo.

What the paper does not say: the noise e of YOSO's target is drawn independently of u (`yoso_target` has the other
readings); pixels without a normal count nothing, with all latents that see them; batch, iterations and resolution of
the training. Where the paper has FeatUp, features are enlarged bilinearly, as in the authors' code. That code draws the
noise of the steps without a seed; here it follows from the seed of the run and the image. Normals are brought to unit
length before they are resized, and after it. timm enlarges a transformer's position embedding with antialiasing, the
authors' code without.

Source: Ye, Qiu, Gu, Zuo, Wu, Dong, Bo, Xiu and Han, StableNormal: Reducing Diffusion Variance for Stable and Sharp
Normal, ACM Transactions on Graphics 2024, arXiv 2406.16864, and the authors' code for the steps and measures, which has
no training.
"""

from lightning_modules.diffusion.stable_normal.conditioned_unet import ConditionedUNet, PixelUNet
from lightning_modules.diffusion.stable_normal.module import StableNormal
from lightning_modules.diffusion.stable_normal.patch_features import PatchFeatures

__all__ = ["ConditionedUNet", "PatchFeatures", "PixelUNet", "StableNormal"]
