"""Embeddings without one encoder equal those that the pipeline computes with an empty prompt for this encoder only."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.flow_transformer import StableDiffusion3
from lightning_modules.backbones.diffusion.flux import Flux
from lightning_modules.backbones.diffusion.text_to_image import Prompts, TextToImage
from lightning_modules.diffusion.finetuning.caption_dropout import CaptionDropout

TEXTS = ["a cat", "dog"]


def by_encoder(network: Any, texts: list[list[str]]) -> Prompts:
    """Embed prompts with the diffusers pipeline, giving each encoder its own list of texts."""
    pipeline = network.pipeline
    if isinstance(network, Flux):
        embedding, pooled, _ = pipeline.encode_prompt(*texts, device="cpu")
        return Prompts(embedding, pooled)
    embedding, _, pooled, _ = pipeline.encode_prompt(*texts, device="cpu", do_classifier_free_guidance=False)
    return Prompts(embedding, pooled)


@pytest.mark.parametrize(
    ("kind", "model", "encoders"),
    [("stable_diffusion_3", StableDiffusion3, 3), ("flux", Flux, 2)],
)
def test_each_encoder_is_dropped_alone(
    kind: str, model: Any, encoders: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = model(str(request.getfixturevalue(kind)))
    prompts = network.encode_prompts(TEXTS)
    for dropped in range(encoders):
        probability = [0.5 * (number == dropped) for number in range(encoders)]
        dropout = CaptionDropout(probability)
        dropout.check(network)
        dropout.prepare(network)
        drawn = torch.tensor([0.6, 0.4])
        monkeypatch.setattr(
            "lightning_modules.diffusion.finetuning.caption_dropout.sample_rows", lambda *_, drawn=drawn: drawn
        )
        found = dropout(prompts)
        texts = [[TEXTS[0], "" if number == dropped else TEXTS[1]] for number in range(encoders)]
        for field, value in by_encoder(network, texts)._asdict().items():
            if value is not None:
                torch.testing.assert_close(getattr(found, field), value, atol=1e-5, rtol=1e-5, msg=f"{field} {dropped}")
        assert not torch.equal(found.embedding, prompts.embedding) or kind == "flux"


def test_dropping_both_encoders_of_sdxl_is_dropping_the_caption(xl: Path) -> None:
    network = TextToImage(str(xl))
    prompts = network.encode_prompts(TEXTS)
    empty = network.empty_prompts(2)
    parts: list[Prompts] = []
    for probability in ([1 - 1e-9, 0.0], [0.0, 1 - 1e-9]):
        dropout = CaptionDropout(probability)
        dropout.prepare(network)
        prompts_without = dropout(prompts)
        parts.append(prompts_without)
        prompts = prompts_without
    width = network.text_encoders[0].config.hidden_size
    torch.testing.assert_close(parts[0].embedding[..., :width], empty.embedding[..., :width])
    assert not torch.equal(parts[0].embedding[..., width:], empty.embedding[..., width:])
    torch.testing.assert_close(parts[1].embedding, empty.embedding)
    torch.testing.assert_close(parts[1].pooled, empty.pooled)


def test_encoders_are_dropped_independently_with_their_probabilities() -> None:
    dropout = CaptionDropout([0.25, 0.5])
    dropout._empty = Prompts(torch.zeros(1, 2, 1))
    dropout._regions = [{"embedding": (slice(0, 1),)}, {"embedding": (slice(1, 2),)}]
    torch.manual_seed(0)
    kept: Tensor = dropout(Prompts(torch.ones(4000, 2, 1))).embedding[..., 0]
    assert kept.mean(dim=0).tolist() == pytest.approx([0.75, 0.5], abs=0.03)
    assert (kept[:, 0] * kept[:, 1]).mean().item() == pytest.approx(0.375, abs=0.03)


def test_what_does_not_fit_is_rejected(text_to_image: Path) -> None:
    with pytest.raises(ValueError, match="one number for each of the 1 text encoders of TextToImage, got 2 numbers"):
        CaptionDropout([0.1, 0.1]).check(TextToImage(str(text_to_image)))
    with pytest.raises(ValueError, match=r"caption_dropout must be in \[0, 1\), got 1"):
        CaptionDropout([0.1, 1.0])
