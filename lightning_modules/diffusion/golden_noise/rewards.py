"""Reward models, which compute B scores from images in [0, 1], `[B, 3, H, W]`, and B texts."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from datamodules.files.limits import sentence
from lightning_modules.backbones.adaptation import frozen
from lightning_modules.backbones.diffusion.pipelines import need_transformers
from lightning_modules.backbones.diffusion.text_to_image import saving_what_is_trained
from lightning_modules.backbones.weights import (
    cached_folder,
    check_pretrained,
    from_pretrained,
    join_names,
    load,
    read_weights,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of each colour channel, with which all CLIP models in this file normalise images."""
BLOCKS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
"""Dictionary that maps the open_clip names of the layers in a block to their names in transformers."""
ENDS = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}


def from_open_clip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert open_clip's CLIP weights to the names and projection layout of transformers' `CLIPModel`."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in ENDS:
            found[ENDS[name]] = value.T if name in ("text_projection", "visual.proj") else value
            continue
        tower, _, inside = name.partition("transformer.resblocks.")
        number, _, layer = inside.partition(".")
        place = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}."
        kind = layer.rpartition(".")[2]
        if layer.startswith("attn.in_proj_"):
            for part, each in zip("qkv", value.chunk(3), strict=True):
                found[f"{place}self_attn.{part}_proj.{kind.removeprefix('in_proj_')}"] = each
        elif (known := BLOCKS.get(layer.rpartition(".")[0])) is not None:
            found[f"{place}{known}.{kind}"] = value
        elif name != "attn_mask":
            found[name] = value
    return found


class CLIPReward(nn.Module):
    """Cosine similarity between CLIP's embeddings of image and text, times 100.

    The weights decide whether this reward is PickScore, HPSv2 or CLIPScore.

    Images are resized and centre-cropped as CLIP expects, but they are not rounded to 8 bits. The weights of this
    module are not saved in checkpoints.

    Args:
        name_or_path: CLIP model from transformers: local folder written by `save_pretrained`, or name on the Hugging
            Face Hub, such as `yuvalkirstain/PickScore_v1` or `openai/clip-vit-large-patch14`. HPSv2 requires
            `laion/CLIP-ViT-H-14-laion2B-s32B-b79K` and `weights`.
        weights: file whose weights replace the weights of the CLIP model, such as `HPS_v2.1_compressed.pt` of HPSv2.
            The names of the weights must be those of open_clip.
        local_files_only: load CLIP only from the Hugging Face cache, without network access.
    """

    def __init__(self, name_or_path: str, weights: str | None = None, local_files_only: bool = False) -> None:
        super().__init__()
        need_transformers("CLIPReward")
        from transformers import AutoTokenizer, CLIPModel

        with torch.device("cpu"):  # the weights could not be loaded and checked on the meta device
            options: dict[str, Any] = {"local_files_only": local_files_only or Path(name_or_path).is_dir()}
            check_pretrained(name_or_path)
            try:
                source = cached_folder(name_or_path, local_files_only)
                self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
            except Exception as error:  # damaged files can raise almost any exception
                raise FileNotFoundError(
                    f"no CLIP model {name_or_path}: it is not a folder written by save_pretrained, not in the Hugging "
                    f"Face cache, and could not be downloaded; run `hf download {name_or_path}` with network access "
                    f"({sentence(error)})"
                ) from error
            self.model: Any = from_pretrained(CLIPModel, source, "model.safetensors", **options)
            if weights is not None:
                load(self.model, from_open_clip(read_weights(weights)), weights)
        frozen(self.model)
        saving_what_is_trained(self)

    def pixels(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise images as CLIP expects."""
        return clip_pixels(images, self.model.config.vision_config.image_size).to(self.model.dtype)

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        found = self.model(
            input_ids=tokens.input_ids.to(images.device),
            attention_mask=tokens.attention_mask.to(images.device),
            pixel_values=self.pixels(images),
        )
        return 100 * (found.image_embeds * found.text_embeds).sum(dim=1).to(images.dtype)


class AestheticReward(CLIPReward):
    """LAION's aesthetic score, from about 1 to 10: linear layers applied to the normalised CLIP embedding of an image.

    Args:
        name_or_path: CLIP model from transformers; see `CLIPReward`. LAION's weights require
            `openai/clip-vit-large-patch14`.
        weights: file with the weights and biases of the linear layers, in order. Examples are LAION's
            `sa_0_4_vit_l_14_linear.pth` and, for version 2 of the score, `sac+logos+ava1-l14-linearMSE.pth`. No
            activation function is applied between the layers.
        local_files_only: load CLIP only from the Hugging Face cache, without network access.
    """

    def __init__(self, name_or_path: str, weights: str, local_files_only: bool = False) -> None:
        super().__init__(name_or_path, local_files_only=local_files_only)
        self.layers = linear_layers(read_weights(weights), self.model.config.projection_dim, weights)
        frozen(self.layers)

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        seen = self.model.vision_model(pixel_values=self.pixels(images)).pooler_output
        embedding = F.normalize(self.model.visual_projection(seen), dim=1)
        return self.layers(embedding.float())[:, 0].to(images.dtype)


def clip_pixels(images: Tensor, size: int) -> Tensor:
    """Resize, centre-crop and normalise images in [0, 1] as CLIP does; the result is `[B, 3, size, size]`."""
    resized = transforms.resize(images, [size], InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    return transforms.normalize(transforms.center_crop(resized, [size, size]), MEAN, STD)


def linear_layers(weights: Mapping[str, Tensor], width: int, source: str) -> nn.Sequential:
    """Build a chain of linear layers without activation functions; it has `width` inputs and one output.

    Args:
        weights: weights and biases of the layers, in order.
        width: number of inputs of the first layer.
        source: name of the weights, for error messages.
    """
    matrices = [value for key, value in weights.items() if key.endswith("weight") and value.ndim == 2]
    biases = [value for key, value in weights.items() if key.endswith("bias") and value.ndim == 1]
    sizes = [width, *(len(matrix) for matrix in matrices)]
    fits = len(matrices) + len(biases) == len(weights) and len(matrices) == len(biases) and sizes[-1] == 1
    shapes = zip(matrices, biases, sizes, sizes[1:], strict=False)
    if not fits or any(m.shape != (after, before) or len(b) != after for m, b, before, after in shapes):
        raise ValueError(
            f"weights: {source} must have linear layers with {width} inputs and one output, got "
            f"{join_names(f'{key} {list(value.shape)}' for key, value in weights.items())}"
        )
    layers = nn.Sequential(*(nn.Linear(before, after) for before, after in pairwise(sizes)))
    values = [value for pair in zip(matrices, biases, strict=True) for value in pair]
    load(layers, dict(zip(layers.state_dict(), values, strict=True)), source)
    return layers


class ClassProbability(nn.Module):
    """Compute the probability that a classifier assigns to the class whose caption is the text.

    Args:
        network: classifier that maps images in [0, 1] to logits `[B, K]`.
        captions: caption of each of the K classes, in the order of the classes.
    """

    def __init__(self, network: nn.Module, captions: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.label = {caption: label for label, caption in enumerate(captions)}

    def extra_repr(self) -> str:
        return ", ".join(self.label)

    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        if unknown := sorted({*texts} - self.label.keys()):
            raise ValueError(f"captions must contain every text that is scored; missing: {', '.join(unknown[:5])}")
        label = torch.tensor([self.label[text] for text in texts], device=images.device)
        return self.network(images).softmax(dim=1).gather(1, label[:, None])[:, 0]


class Called(nn.Module):
    """Wrap a function of images and texts as a module, which can be used as a reward model."""

    def __init__(self, function: Callable[[Tensor, Sequence[str]], Tensor]) -> None:
        super().__init__()
        self.function = function

    def extra_repr(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)

    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        return self.function(images, texts)


@torch.no_grad()
def compute_rewards(rewards: nn.ModuleDict, images: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
    """Compute all rewards, each `[B]`, in float64."""
    found = {}
    for name, reward in rewards.items():
        score = reward(images, texts)
        if score.shape != (len(images),):
            raise ValueError(f"rewards.{name} must return shape [{len(images)}], got {list(score.shape)}")
        found[name] = score.double()
    return found
