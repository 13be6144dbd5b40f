"""ImageReward: a reward model trained on human preferences among images of the same text.

    r(x, c) = (mlp(BLIP(x, c)) - m) / s

BLIP's text encoder encodes the text c with cross-attention to the image x. The MLP consists of linear layers, and
receives the final hidden state of the first token. The constants m and s standardise the reward.

Source: Xu, Liu, Wu, Tong, Li, Ding, Tang and Dong, ImageReward: Learning and Evaluating Human Preferences for
Text-to-Image Generation, NeurIPS 2023, arXiv 2304.05977.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.files.limits import sentence
from lightning_modules.backbones.adaptation import frozen
from lightning_modules.backbones.diffusion.pipelines import HUB_NAME, need_transformers
from lightning_modules.backbones.diffusion.text_to_image import saving_what_is_trained
from lightning_modules.backbones.weights import SUFFIXES, below, cached_folder, check_pretrained, load, read_weights
from lightning_modules.diffusion.golden_noise.rewards import clip_pixels, linear_layers

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Constants m and s of the released weights."""
FILE = "ImageReward.pt"
TOKENS = 35
HEAD = 64
"""Number of features in each attention head."""
VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
"""Dictionary that maps names of BLIP's layers in the released file to their names in transformers."""


class ImageReward(nn.Module):
    """Score how well images match texts, with ImageReward.

    Higher scores are better; the mean score of the authors' images is about 0. Images are resized and centre-cropped,
    but not rounded to 8 bits. The weights are not saved in checkpoints.

    Args:
        weights: released file `ImageReward.pt`, folder with this file, or name on the Hugging Face Hub. Code in the
            file is not run.
        tokenizer: tokenizer of BERT: local folder written by `save_pretrained`, or name on the Hub.
        local_files_only: if a model is given by its name, load it from the Hugging Face cache only, without network
            access.
    """

    def __init__(
        self,
        weights: str = "THUDM/ImageReward",
        tokenizer: str = "google-bert/bert-base-uncased",
        local_files_only: bool = False,
    ) -> None:
        super().__init__()
        need_transformers("ImageReward")
        from transformers import AutoTokenizer, BlipTextModel, BlipVisionModel

        path = released_file(weights, local_files_only)
        content = read_weights(path)
        check_pretrained(tokenizer)
        try:
            source = cached_folder(tokenizer, local_files_only)
            offline = Path(source).is_dir()
            self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=offline)
        except Exception as error:  # damaged files can raise almost any exception
            raise FileNotFoundError(
                f"no tokenizer {tokenizer}: it is not a folder written by save_pretrained, not in the Hugging Face "
                f"cache, and could not be downloaded ({sentence(error)})"
            ) from error
        with torch.device("cpu"):  # the weights could not be loaded and checked on the meta device
            vision, text = (below(content, f"blip.{name}.") for name in ("visual_encoder", "text_encoder"))
            text = {key: value for key, value in text.items() if not key.endswith("position_ids")}
            seen, read = configs(vision, text, path)
            self.vision: Any = BlipVisionModel(seen)
            self.text: Any = BlipTextModel(read, add_pooling_layer=False)
            load(self.vision, named_as_transformers(vision), path)
            load(self.text, text, path)
            self.mlp = linear_layers(below(content, "mlp."), read.hidden_size, str(path))
        if len(self.tokenizer) > read.vocab_size:
            raise ValueError(
                f"{path} has {read.vocab_size} tokens, but tokenizer {tokenizer} has {len(self.tokenizer)}"
            )
        frozen(self)
        saving_what_is_trained(self)

    @torch.no_grad()
    def forward(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).to(images.device)
        seen = self.vision(clip_pixels(images, self.vision.config.image_size).to(self.vision.dtype))
        states = self.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen.last_hidden_state,
        ).last_hidden_state
        return ((self.mlp(states[:, 0].float())[:, 0] - MEAN) / STD).to(images.dtype)


def released_file(weights: str, local_files_only: bool) -> Path:
    """Return the path of the released weight file; the file is downloaded from the Hub if necessary."""
    path = Path(weights).expanduser()
    if path.exists() or path.suffix in SUFFIXES or not re.fullmatch(HUB_NAME, weights):
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(weights, FILE, local_files_only=local_files_only))
    except OSError as error:
        raise FileNotFoundError(
            f"no {FILE} at {weights}: it is not a file or folder, not in the Hugging Face cache, and could not be "
            f"downloaded; run `hf download {weights} {FILE}` with network access"
        ) from error


def configs(vision: Mapping[str, Tensor], text: Mapping[str, Tensor], path: Path) -> tuple[Any, Any]:
    """Derive the configs of BLIP's image encoder and text encoder from the shapes of their weights."""
    from transformers import BlipTextConfig, BlipVisionConfig

    try:
        patches, patch = vision["pos_embed"].shape[1] - 1, vision["patch_embed.proj.weight"].shape[-1]
        width, words = vision["cls_token"].shape[-1], text["embeddings.word_embeddings.weight"].shape
        positions = len(text["embeddings.position_embeddings.weight"])
        inside = [len(vision["blocks.0.mlp.fc1.weight"]), len(text["encoder.layer.0.intermediate.dense.weight"])]
        size = round(patches**0.5) * patch
        if len(words) != 2 or width % HEAD or words[1] % HEAD or positions < TOKENS:
            raise IndexError(f"its widths {width} and {list(words)} must be divisible by {HEAD}")
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{path} does not contain the weights of an ImageReward: {sentence(error)}") from error
    return (
        BlipVisionConfig(
            hidden_size=width, intermediate_size=inside[0], num_hidden_layers=count(vision, "blocks"),
            num_attention_heads=width // HEAD, image_size=size, patch_size=patch, layer_norm_eps=1e-6,
        ),
        BlipTextConfig(
            vocab_size=words[0], hidden_size=words[1], encoder_hidden_size=width, intermediate_size=inside[1],
            num_hidden_layers=count(text, "encoder.layer"), num_attention_heads=words[1] // HEAD,
            max_position_embeddings=positions, layer_norm_eps=1e-12, is_decoder=True,
        ),
    )  # fmt: skip


def count(weights: Mapping[str, Tensor], layers: str) -> int:
    """Count the layers named `<layers>.<number>` in a state dict."""
    return len({found[1] for key in weights if (found := re.match(rf"{re.escape(layers)}\.(\d+)\.", key))})


def named_as_transformers(vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the image encoder to the names in transformers' `BlipVisionModel`."""
    found = {}
    for key, value in vision.items():
        block = re.match(r"blocks\.(\d+)\.", key)
        layer, _, kind = key[block.end() if block else 0 :].rpartition(".")
        place = f"encoder.layers.{block[1]}." if block else ""
        if key in VISION:
            found[VISION[key]] = value
        else:
            found[f"{place}{VISION.get(layer, layer)}.{kind}"] = value
    return found
