"""MPS: the values equal the authors', a pickled model is read without running its code, and bad files are rejected."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.diffusion.golden_noise import MPS, preference_score
from lightning_modules.diffusion.golden_noise.preference_score import CONDITION, CrossModel, cross_model
from tests.tiny_pipelines import save_clip

VALUES = [
    [0.01986645040604846, 0.132636874946168, 0.2076674195409512, 0.4007026402191573],
    [1.065499422494689, 1.0115927822223474, 0.9190525484102411, 0.9376127081744462],
]
"""First values of the first tokens in float64, computed by the authors' code with the weights of `state`."""


def state(model: nn.Module) -> dict[str, Tensor]:
    """Set every parameter to values that depend only on its name and shape."""
    found = {}
    for name, value in model.state_dict().items():
        fan = max(value.numel() // len(value), 1)
        sine = (0.7 * torch.arange(value.numel(), dtype=torch.float64) + len(name)).sin().view_as(value) / fan**0.5
        constant = name.endswith(("bias", "inv_freq"))
        found[name] = value if constant else sine if value.ndim > 1 else 1 + 0.1 * sine
    return found


def test_the_blocks_are_those_of_the_authors_code() -> None:
    given = state(CrossModel(width=12, layers=2, heads=2, inside=48).double())
    model = cross_model(given, "a file").double()
    frequencies = model.state_dict()["layers.1.1.fn.rotary_emb.inv_freq"]
    assert frequencies[4].item() == pytest.approx(10 ** (-4 * 4 / 32), rel=1e-6)
    image = (0.13 * torch.arange(2 * 5 * 12, dtype=torch.float64)).sin().view(2, 5, 12)
    text = (0.29 * torch.arange(2 * 7 * 12, dtype=torch.float64)).cos().view(2, 7, 12)
    mask = torch.ones(2, 1, 7, dtype=torch.bool)
    mask[0, 0, 3:] = mask[1, 0, 0] = False
    found = model(image, text, mask)[:, 0, :4]
    torch.testing.assert_close(found, torch.tensor(VALUES, dtype=torch.float64), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"a file does not contain the weights of MPS: it lacks 'layers.0.0.fn.to_kv"):
        cross_model({}, "a file")


class Published(nn.Module):
    """A model as the authors save it: the whole module, as a pickle."""

    def __init__(self, clip: Any, cross: nn.Module, told: Path) -> None:
        super().__init__()
        self.model, self.cross_model, self.hostile = clip, cross, Hostile(told)
        self.register_buffer("pos_emb", torch.zeros(3))


class Hostile:
    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self) -> Any:
        return run, (str(self.told),)


def run(told: str) -> None:
    Path(told).write_text("code ran")


def test_a_pickled_model_scores_as_its_parts_and_its_code_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPModel

    assert preference_score.THRESHOLD == 0.3
    monkeypatch.setattr(preference_score, "THRESHOLD", 0.9)  # excludes some words with random weights
    folder = save_clip(tmp_path / "clip")
    clip: Any = CLIPModel.from_pretrained(folder).requires_grad_(False)
    for parameter in clip.parameters():
        parameter += 0.05 * (torch.arange(parameter.numel()) * 1.3).sin().view_as(parameter)
    cross = CrossModel(width=12, layers=1, heads=1, inside=8)
    cross.load_state_dict(state(cross))
    torch.save(Published(clip, cross.requires_grad_(False), tmp_path / "told"), tmp_path / "mps.pth")
    score = MPS(str(tmp_path / "mps.pth"), str(folder))
    assert not (tmp_path / "told").exists()
    assert score.state_dict() == {}

    image, texts = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)), ["a cat", "dog"]
    pixels = score.pixels(image)
    condition = clip.text_projection(clip.text_model(score.tokens([CONDITION])).last_hidden_state)[0]
    expected, masks = [], []
    for at, text in enumerate(texts):  # one image at a time, as in the authors' evaluation
        read = clip.text_model(score.tokens([text]))
        words = clip.text_projection(read.last_hidden_state)
        likeness = torch.stack([max(word @ other for other in condition) for word in words[0]])
        masks.append(likeness / max(likeness) > 0.9)
        seen = clip.visual_projection(clip.vision_model(pixels[at : at + 1]).last_hidden_state)
        first = cross(seen, words, masks[-1][None, None])[:, 0]
        cosine = F.cosine_similarity(clip.text_projection(read.pooler_output), first)
        expected.append(clip.logit_scale.exp() * cosine)
    assert any(not mask.all() for mask in masks)
    torch.testing.assert_close(score(image, texts), torch.cat(expected), rtol=1e-4, atol=1e-4)

    torch.save(score.cross.state_dict(), tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part.pth does not contain the weights of MPS"):
        MPS(str(tmp_path / "part.pth"), str(folder))
