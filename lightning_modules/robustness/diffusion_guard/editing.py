"""Metrics of edits.

PSNR and SSIM compare the edit of a protected image with the edit of the original image. CLIP similarity compares an
edit with its prompt.

Let E_I and E_T be the CLIP embeddings of images and texts, normalised to unit length. An edit of a source image has two
scores:

    similarity              cos(E_I(edit), E_T(prompt)),
    directional similarity  cos(E_I(edit) - E_I(source), E_T(prompt) - E_T(source text)).

The source text is a description of the source image. For all metrics, a lower value means better protection.

Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, arXiv
2103.00020; directional similarity from Gal et al., StyleGAN-NADA: CLIP-Guided Domain Adaptation of Image Generators,
SIGGRAPH 2022, arXiv 2108.00946. The metric `CLIPScore` of torchmetrics computes only the first score, and supports only
the models in a fixed list.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from datamodules.files.limits import sentence
from lightning_modules.backbones.diffusion.pipelines import need_transformers
from lightning_modules.backbones.weights import check_pretrained, from_pretrained
from lightning_modules.full_precision import in_full_precision


def directional_similarity(edit: Tensor, source: Tensor, prompt: Tensor, source_text: Tensor) -> Tensor:
    """Compute cos(E_I(edit) - E_I(source), E_T(prompt) - E_T(source text)).

    Args:
        edit: embeddings of the edited images, `[B, D]`, of unit length.
        source: embeddings of the source images, `[B, D]`, of unit length.
        prompt: embeddings of the prompts of the edits, `[B, D]`, of unit length.
        source_text: embeddings of the descriptions of the source images, `[B, D]`, of unit length.

    Returns:
        Similarities `[B]`, in [-1, 1]; 0 if an edit does not change the image.
    """
    return F.cosine_similarity(edit - source, prompt - source_text, dim=1)


class CLIP:
    """Pretrained CLIP model that embeds images and texts.

    This object is not an `nn.Module`, so that CLIP is not stored in checkpoints.

    Args:
        model: local folder, or name of a model on the Hugging Face Hub (`openai/clip-vit-large-patch14`). The folder
            must contain the model, the tokenizer and the image processor, written by `save_pretrained` of transformers.

    Raises:
        FileNotFoundError: if the model is neither on disk nor on the Hub, or if one of its files is missing.
        ValueError: if a file of the model is damaged, or the weights do not match the architecture.
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
        except Exception as error:  # damaged files raise exceptions of almost any type
            raise FileNotFoundError(
                f"clip: {model} is not a CLIP model: expected a folder written by save_pretrained, with model, "
                f"tokenizer and image processor, or a name on the Hugging Face Hub ({sentence(error)})"
            ) from error

    @torch.no_grad()
    def images(self, image: Tensor) -> Tensor:
        """Compute the embeddings E_I, `[B, D]`, of images `[B, 3, H, W]` in [0, 1].

        The embeddings have unit length, and are on the device of the images.
        """
        model = self.model.to(image.device)
        pixels = self.processor(images=list(image.float().cpu()), do_rescale=False, return_tensors="pt").pixel_values
        with in_full_precision(image.device):
            features = model.vision_model(pixel_values=pixels.to(image.device)).pooler_output
            return F.normalize(model.visual_projection(features), dim=1)

    @torch.no_grad()
    def texts(self, text: Sequence[str]) -> Tensor:
        """Compute the embeddings E_T, `[B, D]`, of B texts.

        Texts are truncated to the context length of the model. The embeddings have unit length. They are on the device
        of the model.
        """
        longest = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(text), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        with in_full_precision(self.model.device):
            pooled = self.model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            return F.normalize(self.model.text_projection(pooled), dim=1)


UNSEEN = "_unseen"
"""Suffix of metrics for masks that were not used to compute the protection."""
TRANSFER = "_transfer"
"""Suffix of metrics for edits by a model that was not attacked."""


def reject_suffixes(**options: Sequence[str]) -> None:
    """Reject names that cannot be used as suffixes of metrics."""
    taken = {"unseen", "transfer", "unprotected"}
    for option, names in options.items():
        for name in names:
            if not re.fullmatch(r"\w+", name) or name in taken:
                raise ValueError(
                    f"{option}: names must be distinct, must consist of letters, digits and '_', and must not be "
                    f"unseen, transfer or unprotected, got {name!r}"
                )
            taken.add(name)


class EditMeans(nn.ModuleDict):
    """Dictionary of the metrics, each averaged over images, masks and prompts.

    Args:
        clip: whether to include the CLIP similarities between edits and prompts.
        defences: suffixes of the defences; the empty suffix denotes the defence that the module itself specifies.
        ways: suffixes of the kinds of editing; the empty suffix denotes edits by the attacked model, without
            purification.
    """

    def __init__(self, clip: bool, defences: Sequence[str] = ("",), ways: Sequence[str] = ("",)) -> None:
        similarities = ["clip_similarity", "clip_directional_similarity"] if clip else []
        compared = ["edit_psnr", "edit_psnr_repainted", "edit_ssim", *similarities]
        names = [f"{name}{defence}" for name in compared for defence in defences]
        names += [f"{name}_unprotected" for name in similarities]
        names = [f"{name}{way}{unseen}" for name in names for way in ways for unseen in ("", UNSEEN)]
        norms = [f"noise_norm{defence}" for defence in [*defences, "_unprotected"]]
        super().__init__({name: MeanMetric() for name in [*names, *norms]})

    def mean(self, name: str) -> MeanMetric:
        """Return the `MeanMetric` of the named metric."""
        metric = self[name]
        assert isinstance(metric, MeanMetric)
        return metric

    def measure(self, edit_of_protected: Tensor, edit: Tensor, repainted: Tensor, ending: str) -> None:
        """Update PSNR and SSIM between edits of the protected and edits of the original images, `[B, C, H, W]`.

        The mask `repainted`, `[B, 1, H, W]`, is 1 where the edits repaint the image.
        """
        psnr = peak_signal_noise_ratio(edit_of_protected, edit, 1.0, reduction="none", dim=(1, 2, 3))
        self.mean(f"edit_psnr{ending}").update(psnr)
        self.mean(f"edit_psnr_repainted{ending}").update(psnr_where(edit_of_protected, edit, repainted))
        self.mean(f"edit_ssim{ending}").update(edit_ssim(edit_of_protected, edit))

    def compare(
        self, clip: CLIP, image: Tensor, edit: Tensor, prompts: list[str], sources: list[str] | None, ending: str
    ) -> None:
        """Add a batch of edited images and their prompts to the means of the CLIP similarities.

        Args:
            clip: CLIP model.
            image: source images, `[B, C, H, W]` in [0, 1].
            edit: edited images, `[B, C, H, W]` in [0, 1].
            prompts: prompts of the edits, B texts.
            sources: descriptions of the source images; if None, the directional similarity is not computed.
            ending: suffix of the metric names.
        """
        edited, asked = clip.images(edit), clip.texts(prompts)
        self.mean(f"clip_similarity{ending}").update((edited * asked).sum(dim=1))
        if sources is not None:
            direction = directional_similarity(edited, clip.images(image), asked, clip.texts(sources))
            self.mean(f"clip_directional_similarity{ending}").update(direction)


def psnr_where(edit: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """Compute the PSNR, `[B]` in dB, between images in [0, 1] over the pixels of a mask.

    Only pixels in the mask `where`, `[B, 1, H, W]`, are used. The PSNR is infinite for equal images, and NaN for an
    empty mask.
    """
    error = ((edit - other).square() * where).sum(dim=(1, 2, 3))
    return -10 * torch.log10(error / (edit.shape[1] * where.sum(dim=(1, 2, 3))))


def edit_ssim(edit: Tensor, other: Tensor) -> Tensor:
    """Compute the SSIM, `[B]`, between images `[B, C, H, W]` in [0, 1], with reflected borders.

    Height and width must each exceed 5 pixels.
    """
    found = structural_similarity_index_measure(edit, other, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def group_by_prompt(prompts: Sequence[Sequence[str]]) -> list[tuple[list[int], list[str]]]:
    """For each k, return the indices of all images that have a k-th prompt, and the k-th prompts of these images."""
    rounds = []
    for number in range(max(map(len, prompts), default=0)):
        rows = [row for row, of_image in enumerate(prompts) if len(of_image) > number]
        rounds.append((rows, [prompts[row][number] for row in rows]))
    return rounds
