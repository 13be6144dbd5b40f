"""A tiny CLIP model with random weights, saved to disk in the layout of transformers."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from tests.tiny_pipelines import save_tokenizer

VOCABULARY = ["<|startoftext|>", "<|endoftext|>", "a", "c", "t", "d", "o", "g", "a</w>", "t</w>", "g</w>"]
"""Tokens for the words `a`, `cat` and `dog`; each letter is a token."""


def save_tiny_clip(folder: Path, size: int = 16) -> Path:
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    tokenizer = save_tokenizer(folder, VOCABULARY[2:])
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**shape, **ends, "vocab_size": len(VOCABULARY), "max_position_embeddings": 8}
    vision = {**shape, "image_size": size, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # default weights make all texts nearly equal
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}).save_pretrained(folder)
    return folder
