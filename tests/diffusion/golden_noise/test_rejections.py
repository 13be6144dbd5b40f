from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import nn

from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.golden_noise import CLIPReward, GoldenNoise, with_released_weights
from lightning_modules.diffusion.golden_noise.collection import FOLDER
from lightning_modules.diffusion.golden_noise.rewards import Called, compute_rewards
from tests.diffusion.golden_noise.small import Texts, data, module, npnet, randn
from tests.diffusion.golden_noise.test_collection import predict
from tests.diffusion.golden_noise.test_npnet import prompts, released, small_swin
from tests.diffusion.golden_noise.test_rewards import images
from tests.rejections import Row, rejection_test
from tests.trainers import quiet


def predicted_again(root: Path, **more: Any) -> object:
    predict(root)
    return predict(root, **more)


def predicted_of_another_text(root: Path) -> object:
    predict(root)
    file = root / FOLDER / "10_100.npz"
    np.savez(file, **{**np.load(file), "caption": np.array("another")})
    return predict(root)


def of_levels_from_nought() -> object:
    method = module()
    method.model.scheduler = DDIMScheduler(
        timestep_spacing="trailing", rescale_betas_zero_snr=True, beta_schedule="scaled_linear"
    )
    return GoldenNoise(method.network, method.model)


def trained_on_smaller_noise(root: Path) -> object:
    quiet(default_root_dir=root).predict(module(), data())
    larger = GoldenNoise(npnet(1, 16).float(), module().model)
    return quiet(max_epochs=1).fit(larger, data(data_dir=str(root / "noise_pairs"), margin=None))


def weights(root: Path, **more: Any) -> object:
    released(root / "sdxl.pth", **more)
    return with_released_weights(small_swin(), str(root / "sdxl.pth"))


# fmt: off
REJECTED: list[Row] = [
    ("collection with another guidance", lambda root: predicted_again(root, pair_guidance=3.5), ValueError,
     "was made with pair_guidance 5.5, and this run has 3.5"),
    ("collection with another reward",
     lambda root: predicted_again(root, rewards={"brightness": lambda images, texts: images.flatten(1).std(1)}),
     ValueError, "was made with other reward brightness"),
    ("collection of another text", predicted_of_another_text, ValueError,
     r"10_100.npz was written for other input data"),
    ("GoldenNoise levels", lambda _: of_levels_from_nought(), ValueError,
     "abar of the first timestep must be above 0"),
    ("GoldenNoise test without rewards", lambda _: quiet().test(module(rewards=None), data(test_prompts=Texts())),
     ValueError, r"test needs model.rewards"),
    ("GoldenNoise data", lambda _: quiet(max_epochs=1).fit(module(), torch.utils.data.DataLoader([0])), TypeError,
     "GoldenNoise needs the DataModule NoisePairs, got NoneType"),
    ("GoldenNoise noise", trained_on_smaller_noise, ValueError,
     r"latent_shape is \[1, 16, 16\], but the noise has \[1, 8, 8\]"),
    ("NPNet weights lack a part", lambda root: weights(root, embeeding=None), ValueError,
     "must contain unet_svd, unet_embedding, embeeding, alpha, beta of an NPNet: KeyError"),
    ("NPNet weights shape", lambda root: weights(root, embeeding={"linear.weight": torch.zeros(8, 7)}), ValueError,
     "missing: text.linear.bias; wrong shape: text.linear"),
    ("NPNet channels", lambda _: npnet(channels=3), ValueError,
     r"square number of channels and h = w, .* got \[3, 8, 8\]"),
    ("NPNet size", lambda _: npnet(size=7, channels=1), ValueError, "folds to 7 rows, but needs a multiple of 8 rows"),
    ("NPNet noise", lambda _: npnet()(randn(3, 4, 4, 4), prompts()), ValueError,
     r"latent_shape is \[4, 8, 8\], but the noise has \[4, 4, 4\]"),
    ("NPNet texts", lambda _: npnet()(randn(3, 4, 8, 8), Prompts(randn(3, 2, 2))), ValueError,
     "prompt_features is 6, but a text embedding has 4"),
    ("CLIPReward missing", lambda _: CLIPReward("nobody/none", local_files_only=True), FileNotFoundError,
     r"no CLIP model nobody/none: .* run `hf download nobody/none`"),
    ("reward of a batch",
     lambda _: compute_rewards(nn.ModuleDict({"mine": Called(lambda image, _: image.mean())}), images(), ["a", "b"]),
     ValueError, r"rewards.mine must return shape \[2\], got \["),
    ("reward of pixels",
     lambda _: compute_rewards(nn.ModuleDict({"mine": Called(lambda image, _: image)}), images(), ["a", "b"]),
     ValueError, r"rewards.mine must return shape \[2\], got \["),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
