"""The families of latent text-to-image transformers: what differs between them, written with plain diffusers calls."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle, unfold

from lightning_modules.backbones import diffusion
from lightning_modules.backbones.diffusion.export import save_model
from lightning_modules.backbones.diffusion.text_to_image import TextToImage

CAPTIONS = ["a cat", "dog", "bird of prey"]
"""Captions of different lengths, so that the shorter ones are padded."""
SOURCE = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
"""Source images of models that edit images."""
QWEN_MEAN, QWEN_DEVIATION = (torch.tensor(v).view(1, 4, 1, 1) for v in ([-0.7, 0.1, 0.9, 0.0], [2.8, 1.4, 0.7, 1.0]))


def noise(model: TextToImage, n: int = 2, side: int | None = None, seed: int = 0) -> Tensor:
    """Sample noise in the shape of the latents of images with `side` rows and columns (default: the model's size)."""
    return torch.randn(model.latent_shape(n, side, side), generator=torch.Generator().manual_seed(seed))


def exported(model: TextToImage, folder: Path) -> Path:
    """Save a model as at the end of training."""
    save_model(model, folder / "tuned", writes=True)
    return folder / "tuned"


def packed(latent: Tensor) -> Tensor:
    """Pack 2 x 2 patches in row-major order; in a patch, the four pixels of a channel are adjacent."""
    return unfold(latent, 2, stride=2).transpose(1, 2)


def in_a_row(latent: Tensor) -> Tensor:
    """Arrange the latent pixels in row-major order, `[B, h w, c]`."""
    return latent.flatten(2).transpose(1, 2)


# The functions below encode images, `clean`, and predict the target, `predict`, as the pipelines do.


def encoded(alone: Any, image: Tensor, draw: Tensor) -> Tensor:
    posterior, config = alone.vae.encode(2 * image - 1).latent_dist, alone.vae.config
    return (posterior.mean + posterior.std * draw - (config.shift_factor or 0)) * config.scaling_factor


def encoded_by_flux2(alone: Any, image: Tensor, draw: Tensor) -> Tensor:
    posterior = alone.vae.encode(2 * image - 1).latent_dist
    clean = pixel_unshuffle(posterior.mean, 2) + pixel_unshuffle(posterior.std, 2) * draw
    mean, variance = (value.view(-1, 1, 1) for value in (alone.vae.bn.running_mean, alone.vae.bn.running_var))
    return (clean - mean) / torch.sqrt(variance + alone.vae.config.batch_norm_eps)


def encoded_by_qwen(alone: Any, image: Tensor, draw: Tensor) -> Tensor:
    posterior = alone.vae.encode((2 * image - 1)[:, :, None]).latent_dist
    return (posterior.mean[:, :, 0] + posterior.std[:, :, 0] * draw - QWEN_MEAN) / QWEN_DEVIATION


def encoded_by_sana(alone: Any, image: Tensor, draw: Tensor) -> Tensor:
    """The autoencoder is deterministic, so `draw` is not used."""
    return alone.vae.encode(2 * image - 1).latent * 0.41407


def predicted_by_stable_diffusion_3(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, _, pooled, _ = alone.encode_prompt(captions, None, None, do_classifier_free_guidance=False)
    return alone.transformer(
        hidden_states=noisy, timestep=1000 * t, encoder_hidden_states=embedding, pooled_projections=pooled,
        joint_attention_kwargs=None, return_dict=False,
    )[0]  # fmt: skip


def predicted_by_flux(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, pooled, text_ids = alone.encode_prompt(captions, None)
    _, image_ids = alone.prepare_latents(3, 4, 16, 16, torch.float32, torch.device("cpu"), None, packed(noisy))
    return alone.transformer(
        hidden_states=packed(noisy), timestep=t, guidance=torch.full([3], 1.5), pooled_projections=pooled,
        encoder_hidden_states=embedding, txt_ids=text_ids, img_ids=image_ids, joint_attention_kwargs={},
        return_dict=False,
    )[0]  # fmt: skip


def predicted_by_flux_kontext(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, pooled, text_ids = alone.encode_prompt(captions, None)
    sizes = 3, 4, 16, 16, torch.float32, torch.device("cpu"), None
    tokens, source, ids, source_ids = alone.prepare_latents(2 * SOURCE - 1, *sizes, packed(noisy))
    return alone.transformer(
        hidden_states=torch.cat([tokens, source], dim=1), timestep=t, guidance=torch.full([3], 1.5),
        pooled_projections=pooled, encoder_hidden_states=embedding, txt_ids=text_ids,
        img_ids=torch.cat([ids, source_ids]), joint_attention_kwargs={}, return_dict=False,
    )[0][:, : tokens.shape[1]]  # fmt: skip


def predicted_by_chroma(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, text_ids, mask, *_ = alone.encode_prompt(captions, do_classifier_free_guidance=False)
    _, image_ids = alone.prepare_latents(3, 4, 16, 16, torch.float32, torch.device("cpu"), None, packed(noisy))
    return alone.transformer(
        hidden_states=packed(noisy), timestep=t, encoder_hidden_states=embedding, txt_ids=text_ids, img_ids=image_ids,
        attention_mask=alone._prepare_attention_mask(3, 16, torch.float32, mask), joint_attention_kwargs={},
        return_dict=False,
    )[0]  # fmt: skip


def predicted_by_flux2(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, text_ids = alone.encode_prompt(captions)
    tokens, ids = alone.prepare_latents(3, 4, 16, 16, torch.float32, "cpu", None, noisy)
    guidance = torch.full([3], 1.5) if alone.transformer.config.guidance_embeds else None
    return alone.transformer(
        hidden_states=tokens, timestep=t, guidance=guidance, encoder_hidden_states=embedding, txt_ids=text_ids,
        img_ids=ids, joint_attention_kwargs=None, return_dict=False,
    )[0]  # fmt: skip


def predicted_by_qwen(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, mask = alone.encode_prompt(captions)
    return alone.transformer(
        hidden_states=packed(noisy), timestep=t, guidance=None, encoder_hidden_states_mask=mask,
        encoder_hidden_states=embedding, img_shapes=[[(1, 4, 4)]] * 3, attention_kwargs={}, return_dict=False,
    )[0]  # fmt: skip


def predicted_by_sana(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    """The embeddings are those that the pipeline itself computes, which include its instruction."""
    called: list[tuple[Tensor, Tensor]] = []
    step = alone.encode_prompt
    alone.encode_prompt = lambda *args, **kwargs: (called.append(step(*args, **kwargs)), called[-1])[1]
    options: dict[str, Any] = {"use_resolution_binning": False, "output_type": "latent"}
    alone(captions, height=32, width=32, num_inference_steps=1, guidance_scale=1.0, **options)
    embedding, mask = called[0][:2]
    return alone.transformer(
        noisy, encoder_hidden_states=embedding, encoder_attention_mask=mask, timestep=1000 * t * 0.5, return_dict=False
    )[0]


def predicted_by_z_image(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, _ = alone.encode_prompt(list(captions), do_classifier_free_guidance=False)
    given = list(noisy.unsqueeze(2).unbind(dim=0))
    return -torch.stack(alone.transformer(given, 1 - t, embedding, return_dict=False)[0]).squeeze(2)


def predicted_by_lumina2(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, mask, _, _ = alone.encode_prompt(captions, do_classifier_free_guidance=False)
    return -alone.transformer(
        hidden_states=noisy, timestep=1 - t, encoder_hidden_states=embedding, encoder_attention_mask=mask,
        attention_kwargs=None, return_dict=False,
    )[0]  # fmt: skip


def predicted_by_pixart(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    embedding, mask, _, _ = alone.encode_prompt(captions, False)
    return alone.transformer(
        noisy, encoder_hidden_states=embedding, encoder_attention_mask=mask, timestep=t,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None}, return_dict=False,
    )[0].chunk(2, dim=1)[0]  # fmt: skip


def predicted_by_hunyuan_dit(alone: Any, noisy: Tensor, t: Tensor, captions: list[str]) -> Tensor:
    """The transformer's additional arguments are those that are recorded while the pipeline runs."""
    called: dict[str, Any] = {}
    hook = alone.transformer.register_forward_pre_hook(
        lambda network, args, kwargs: called.update(kwargs), with_kwargs=True
    )
    options: dict[str, Any] = {"use_resolution_binning": False, "output_type": "latent"}
    alone(captions, height=64, width=64, num_inference_steps=1, guidance_scale=1.0, **options)
    hook.remove()
    return alone.transformer(noisy, t.float(), **called)[0].chunk(2, dim=1)[0]


@dataclass(frozen=True)
class Family:
    """What differs between the families of models."""

    model: type[TextToImage]
    pipeline: Any
    """The pipeline class of diffusers."""
    sizes: tuple[int, int]
    """The model's `image_size` and `size_multiple`."""
    predict: Callable[..., Tensor]
    """Predict the target from the pipeline, noisy latents, times and captions."""
    side: int = 16
    """Height and width of the images of these tests."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the model in the test of a training step."""
    given: Mapping[str, Any] = field(default_factory=lambda: {"guidance_scale": 2.0})
    """Arguments of the pipeline for the guidance scale 2 of this project, and its further arguments."""
    unguided: Mapping[str, float] = field(default_factory=lambda: {"guidance_scale": 1.0})
    """Argument of the pipeline that disables guidance."""
    pack: Callable[[Tensor], Tensor] = lambda latent: latent
    """Arrange latents as the pipeline does in its network's output."""
    start: Callable[[Tensor], Tensor] | None = None
    """Arrange latents as the pipeline's argument `latents`; None: as `pack`."""
    shift: float | None = None
    """Shift of the times of flow matching; None for the families that predict noise or v."""
    clean: Callable[..., Tensor] = encoded
    """Encode images with the pipeline, given noise for the autoencoder."""
    steps: int = 25
    """Training steps that lower the loss of one image."""
    merged: bool = False
    """Whether adapters are saved in the weights of the transformer, because the pipeline cannot load adapters."""

    def loss(self, alone: Any, image: Tensor, captions: list[str], shape: tuple[int, ...]) -> Tensor:
        """Compute the loss of a training step, with the random numbers of the step in the same order."""
        draw, e = torch.randn(3, *shape), torch.randn(3, *shape)
        if self.shift is not None:
            u = torch.sigmoid(torch.normal(0.0, 1.0, (3,)))
            t = self.shift * u / (1 + (self.shift - 1) * u)
            clean, level = self.clean(alone, image, draw), t.view(-1, 1, 1, 1)
            velocity = self.predict(alone, (1 - level) * clean + level * e, t, captions)
            return (velocity - self.pack(e - clean)).square().mean()
        t = torch.randint(1000, (3,))
        abar = alone.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        clean, ratio = self.clean(alone, image, draw), (abar / (1 - abar)).flatten()
        output = self.predict(alone, abar.sqrt() * clean + (1 - abar).sqrt() * e, t, captions)
        v = alone.scheduler.config.prediction_type == "v_prediction"
        error = output - (abar.sqrt() * e - (1 - abar).sqrt() * clean if v else e)
        return (ratio.clamp(max=5) / (ratio + v) * error.square().mean(dim=(1, 2, 3))).mean()

    def images(self, alone: Any, latent: Tensor, **options: Any) -> Tensor:
        """Generate images for the first two captions with plain diffusers, from these latents."""
        sizes = {"height": self.side, "width": self.side, "output_type": "pt", "num_inference_steps": 2}
        generator = torch.Generator().manual_seed(1)  # for stochastic schedulers
        latents = (self.start or self.pack)(latent)
        return alone(prompt=CAPTIONS[:2], latents=latents, generator=generator, **{**sizes, **self.given, **options})[0]

    def source(self, model: TextToImage, argument: str, n: int = 2) -> dict[str, Tensor]:
        """Return the latents of source images as an argument of `forward` or `generate`, if the model edits images."""
        return {argument: model.encode(SOURCE[:n])} if model.takes_source else {}

    def loaded(self, folder: Path) -> Any:
        """Load the pipeline with diffusers alone, and freeze all parts except the transformer."""
        alone = self.pipeline.from_pretrained(folder)
        for name, part in alone.components.items():
            if isinstance(part, nn.Module) and name != "transformer":
                part.requires_grad_(False)
        return alone


FLUX_SHIFT = math.exp(calculate_shift(16))  # for 16 tokens
UNBINNED = {"guidance_scale": 2.0, "use_resolution_binning": False}
WITH_GUIDANCE = {"training_guidance": 1.5}
of_flux2 = partial(
    Family, diffusion.Flux2, sizes=(256, 4), predict=predicted_by_flux2, pack=in_a_row, start=lambda latent: latent,
    shift=math.exp(compute_empirical_mu(16, 50)), clean=encoded_by_flux2, steps=15,
)  # fmt: skip
FAMILIES = {
    "stable_diffusion_3": Family(
        diffusion.StableDiffusion3, diffusers.StableDiffusion3Pipeline, (16, 4), predicted_by_stable_diffusion_3,
        shift=3.0,
    ),
    "flux": Family(
        diffusion.Flux, diffusers.FluxPipeline, (256, 4), predicted_by_flux, options=WITH_GUIDANCE, pack=packed,
        shift=FLUX_SHIFT,
    ),
    "flux_kontext": Family(
        diffusion.FluxKontext, diffusers.FluxKontextPipeline, (256, 4), predicted_by_flux_kontext,
        options=WITH_GUIDANCE, pack=packed, shift=FLUX_SHIFT,
        given={"guidance_scale": 2.0, "image": SOURCE[:2], "_auto_resize": False, "max_area": 256},
    ),
    "chroma": Family(
        diffusion.Chroma, diffusers.ChromaPipeline, (256, 4), predicted_by_chroma, pack=packed, shift=FLUX_SHIFT
    ),
    "flux2": of_flux2(diffusers.Flux2Pipeline, options=WITH_GUIDANCE),
    "flux2_klein": of_flux2(diffusers.Flux2KleinPipeline),
    "qwen_image": Family(
        diffusion.QwenImage, diffusers.QwenImagePipeline, (512, 8), predicted_by_qwen, 32,
        given={"true_cfg_scale": 2.0, "negative_prompt": ["", ""]}, unguided={"true_cfg_scale": 1.0}, pack=packed,
        shift=math.exp(calculate_shift(16, max_shift=0.9)), clean=encoded_by_qwen, steps=15,
    ),
    "sana": Family(
        diffusion.Sana, diffusers.SanaPipeline, (32, 32), predicted_by_sana, 32, given=UNBINNED, shift=3.0,
        clean=encoded_by_sana,
    ),
    "z_image": Family(  # its guidance scale is that of this project minus 1
        diffusion.ZImage, diffusers.ZImagePipeline, (1024, 4), predicted_by_z_image, given={"guidance_scale": 1.0},
        unguided={"guidance_scale": 0.0}, shift=3.0,
    ),
    "lumina2": Family(
        diffusion.Lumina2, diffusers.Lumina2Pipeline, (64, 16), predicted_by_lumina2, 32, shift=6.0
    ),
    "pixart_sigma": Family(
        diffusion.PixArtSigma, diffusers.PixArtSigmaPipeline, (16, 4), predicted_by_pixart, merged=True,
        given={**UNBINNED, "clean_caption": False},
    ),
    "hunyuan_dit": Family(
        diffusion.HunyuanDiT, diffusers.HunyuanDiTPipeline, (64, 16), predicted_by_hunyuan_dit, 64, given=UNBINNED,
        merged=True,
    ),
}  # fmt: skip
"""The families by the name of their tiny pipeline in `tests/tiny_pipelines.py`."""


def side_of(name: str) -> int:
    """Return the height and width of the images for a tiny pipeline."""
    return FAMILIES[name].side if name in FAMILIES else 16
