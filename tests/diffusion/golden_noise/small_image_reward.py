"""A tiny ImageReward with random weights, named as in the released file, and a tokenizer for letters."""

from pathlib import Path

import torch
from torch import Tensor

from tests.tiny_pipelines import LETTERS

WIDTH, INSIDE, PATCH, SIDE, LAYERS = 128, 24, 8, 2, 2  # two heads of width 64
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def shapes() -> dict[str, tuple[int, ...]]:
    """List the tensors of the released file, without the unused ones."""

    def linear(name: str, after: int, before: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    found = {f"{vision}.cls_token": (1, 1, WIDTH), f"{vision}.pos_embed": (1, 1 + SIDE**2, WIDTH)}
    found |= {f"{vision}.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH)}
    found |= {f"{vision}.patch_embed.proj.bias": (WIDTH,), **norm(f"{vision}.norm")}
    found |= {f"{text}.embeddings.word_embeddings.weight": (2 + len(TOKENS), WIDTH)}
    found |= {f"{text}.embeddings.position_embeddings.weight": (40, WIDTH), **norm(f"{text}.embeddings.LayerNorm")}
    for n in range(LAYERS):
        block, layer = f"{vision}.blocks.{n}", f"{text}.encoder.layer.{n}"
        found |= {**norm(f"{block}.norm1"), **linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)}
        found |= {**linear(f"{block}.attn.proj", WIDTH, WIDTH), **norm(f"{block}.norm2")}
        found |= {**linear(f"{block}.mlp.fc1", INSIDE, WIDTH), **linear(f"{block}.mlp.fc2", WIDTH, INSIDE)}
        for kind in ("attention", "crossattention"):
            for part in ("query", "key", "value"):
                found |= linear(f"{layer}.{kind}.self.{part}", WIDTH, WIDTH)
            found |= {**linear(f"{layer}.{kind}.output.dense", WIDTH, WIDTH)}
            found |= norm(f"{layer}.{kind}.output.LayerNorm")
        found |= linear(f"{layer}.intermediate.dense", INSIDE, WIDTH)
        found |= {**linear(f"{layer}.output.dense", WIDTH, INSIDE), **norm(f"{layer}.output.LayerNorm")}
    for n, after, before in ((0, 12, WIDTH), (2, 6, 12), (4, 1, 6)):
        found |= linear(f"mlp.layers.{n}", after, before)
    return found


def weights() -> dict[str, Tensor]:
    """Sample weights for which the reward depends on text and image."""
    random = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=random) for name, shape in shapes().items()}
    for name, value in found.items():
        if "norm" in name.lower() and name.endswith("weight"):
            found[name] = 1 + 0.2 * value
        elif "mlp.layers" in name:
            found[name] = 0.4 * value
        elif "embed" not in name:
            found[name] = 0.12 * value
    return found


def save_image_reward(folder: Path) -> Path:
    """Save the tokenizer and the weights, including tensors that are in the released file but unused by ImageReward."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True)
    unused = {"blip.vision_proj.weight": torch.zeros(4, WIDTH), "blip.text_proj.bias": torch.zeros(4)}
    unused |= {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}
    torch.save({**weights(), **unused}, folder / "ImageReward.pt")
    BertTokenizer(vocab={token: number for number, token in enumerate(TOKENS)}).save_pretrained(folder)
    return folder
