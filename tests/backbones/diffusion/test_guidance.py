import torch
from torch import Tensor

from lightning_modules.backbones.diffusion.guidance import guided_model
from lightning_modules.backbones.diffusion.text_encoders import Prompts, concatenate_prompts


def linear(x: Tensor, t: Tensor, prompts: Prompts | None) -> Tensor:
    """Return a linear function of x that depends on all three inputs, separately for each row."""
    word = 0.0 if prompts is None else prompts.embedding.mean(dim=(1, 2)).view(-1, 1, 1, 1)
    return x * word + t.view(-1, 1, 1, 1)


def prompts(value: float, pooled: bool = False) -> Prompts:
    embedding = value * torch.arange(1.0, 3.0).view(2, 1, 1).expand(2, 3, 4)
    return Prompts(embedding, embedding[:, 0] if pooled else None)


def test_predictions_are_moved_away_from_the_other_text() -> None:
    x, t = torch.randn(2, 1, 3, 3), torch.tensor([5, 7])
    given, other = prompts(1.0), prompts(-2.0)
    e_c, e_u = linear(x, t, given), linear(x, t, other)
    for scale, expected in ((1.0, e_c), (0.0, e_u), (7.5, e_u + 7.5 * (e_c - e_u))):
        torch.testing.assert_close(guided_model(linear, given, other, scale)(x, t), expected)
    assert torch.equal(guided_model(linear, None, None, 7.5)(x, t), linear(x, t, None))


def test_pooled_texts_are_joined_too() -> None:
    both = concatenate_prompts([prompts(1.0, pooled=True), prompts(2.0, pooled=True)])
    assert both.embedding.shape == (4, 3, 4)
    assert both.pooled is not None
    assert both.pooled[:, 0].tolist() == [1, 2, 2, 4]
    assert concatenate_prompts([prompts(1.0), prompts(2.0)]).pooled is None
