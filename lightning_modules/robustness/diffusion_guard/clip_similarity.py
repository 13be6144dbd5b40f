"""Similarity of an edited image and its prompt, by the embeddings of a CLIP model.

With E_I and E_T the embeddings of images and texts, each of unit length, an edit of a source image is measured by

    similarity              cos(E_I(edit), E_T(prompt)),
    directional similarity  cos(E_I(edit) - E_I(source), E_T(prompt) - E_T(source text)),

where the source text says what the source image shows. For protection against edits lower is better in both.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, arXiv
2103.00020; the direction from Gal et al., StyleGAN-NADA: CLIP-Guided Domain Adaptation of Image Generators, SIGGRAPH
2022, arXiv 2108.00946. torchmetrics' CLIPScore has the first alone, of models that it knows by name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.files.limits import sentence
from lightning_modules.backbones.diffusion.pipelines import need_transformers
from lightning_modules.backbones.weights import check_pretrained, from_pretrained
from lightning_modules.full_precision import in_full_precision


def directional_similarity(edit: Tensor, source: Tensor, prompt: Tensor, source_text: Tensor) -> Tensor:
    """Compute cos(E_I(edit) - E_I(source), E_T(prompt) - E_T(source text)).

    Args:
        edit: embeddings of the edited images, `[B, D]`, of unit length.
        source: embeddings of the images before, `[B, D]`, of unit length.
        prompt: embeddings of the edits' texts, `[B, D]`, of unit length.
        source_text: embeddings of texts that say what the images show, `[B, D]`, of unit length.

    Returns:
        `[B]`, in [-1, 1]; 0 where an edit changes nothing.
    """
    return F.cosine_similarity(edit - source, prompt - source_text, dim=1)


class CLIP:
    """Embeddings of a pretrained CLIP model. It is no part of the module that measures by it, nor of its checkpoints.

    Args:
        model: a local folder as transformers' `save_pretrained` writes it, with the tokenizer and the preprocessing of
            images, or a model's name on the Hugging Face Hub (`openai/clip-vit-large-patch14`).

    Raises:
        FileNotFoundError: if the model is neither on disk nor on the Hub, or lacks one of its parts.
        ValueError: if a file of it is damaged, or its weights do not fit.
        ImportError: if transformers is not installed.
    """

    def __init__(self, model: str) -> None:
        need_transformers("CLIP similarity")
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

        path = str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else model
        options: dict[str, Any] = {"local_files_only": Path(path).is_dir()}
        check_pretrained(path)
        try:
            with torch.device("cpu"):
                read = from_pretrained(CLIPModel, path, "model.safetensors", dtype=torch.float32, **options)
            self.model: Any = read.requires_grad_(False).eval()
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(path, trust_remote_code=False, **options)
            self.processor: Any = CLIPImageProcessor.from_pretrained(path, trust_remote_code=False, **options)
        except ValueError:
            raise
        except Exception as error:  # damaged files raise almost anything
            raise FileNotFoundError(
                f"clip: {model} is no CLIP model: expected a folder as save_pretrained writes it, of model, tokenizer "
                f"and image processor, or a name on the Hugging Face Hub ({sentence(error)})"
            ) from error

    @torch.no_grad()
    def images(self, image: Tensor) -> Tensor:
        """Compute E_I of images `[B, 3, H, W]` in [0, 1]: `[B, D]`, of unit length, on the images' device."""
        model = self.model.to(image.device)
        pixels = self.processor(images=list(image.float().cpu()), do_rescale=False, return_tensors="pt").pixel_values
        with in_full_precision(image.device):
            features = model.vision_model(pixel_values=pixels.to(image.device)).pooler_output
            return F.normalize(model.visual_projection(features), dim=1)

    @torch.no_grad()
    def texts(self, text: Sequence[str]) -> Tensor:
        """Compute E_T of B texts, cut off where the model's context ends: `[B, D]`, of unit length, on its device."""
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(text), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        with in_full_precision(self.model.device):
            pooled = self.model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            return F.normalize(self.model.text_projection(pooled), dim=1)
