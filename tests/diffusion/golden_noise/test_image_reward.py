"""ImageReward equals independent implementations of BLIP and the MLP; wrong files are rejected."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.diffusion.golden_noise import ImageReward
from tests.diffusion.golden_noise.small_image_reward import (
    LAYERS,
    PATCH,
    SIDE,
    TOKENS,
    WIDTH,
    save_image_reward,
    weights,
)

TEXTS = ["a cat", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_image_reward(tmp_path_factory.mktemp("reward") / "saved")


def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute attention with two heads."""
    heads = [each.unflatten(2, (2, 64)).transpose(1, 2) for each in (query, key, value)]
    return F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)


def expected(image: Tensor, tokens: Tensor) -> Tensor:
    own = {name: value.double() for name, value in weights().items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, own[f"{name}.weight"], own[f"{name}.bias"])

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, (WIDTH,), own[f"{name}.weight"], own[f"{name}.bias"], eps)

    vision, text = "blip.visual_encoder", "blip.text_encoder"
    patches = f"{vision}.patch_embed.proj"
    x = F.conv2d(image, own[f"{patches}.weight"], own[f"{patches}.bias"], stride=PATCH).flatten(2).mT
    x = torch.cat([own[f"{vision}.cls_token"].expand(len(x), -1, -1), x], dim=1) + own[f"{vision}.pos_embed"]
    for n in range(LAYERS):
        block = f"{vision}.blocks.{n}"
        x = x + linear(
            f"{block}.attn.proj", attended(*linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, 2))
        )
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6))))
    seen = norm(f"{vision}.norm", x, 1e-6)

    y = own[f"{text}.embeddings.word_embeddings.weight"][tokens]
    y = y + own[f"{text}.embeddings.position_embeddings.weight"][: tokens.shape[1]]
    y = norm(f"{text}.embeddings.LayerNorm", y, 1e-12)
    mask = (tokens != 0)[:, None, None, :]
    for n in range(LAYERS):
        layer = f"{text}.encoder.layer.{n}"
        for kind, given, seen_by in (("attention", None, mask), ("crossattention", seen, None)):
            k = f"{layer}.{kind}"
            context = y if given is None else given
            parts = linear(f"{k}.self.query", y), linear(f"{k}.self.key", context), linear(f"{k}.self.value", context)
            y = norm(f"{k}.output.LayerNorm", y + linear(f"{k}.output.dense", attended(*parts, seen_by)), 1e-12)
        hidden = F.gelu(linear(f"{layer}.intermediate.dense", y))
        y = norm(f"{layer}.output.LayerNorm", y + linear(f"{layer}.output.dense", hidden), 1e-12)
    z = y[:, 0]
    for n in (0, 2, 4):
        z = linear(f"mlp.layers.{n}", z)
    return (z[:, 0] - 0.16717362830052426) / 1.0333394966054072


def test_it_is_the_mlp_of_blips_first_token(folder: Path) -> None:
    reward = ImageReward(str(folder / "ImageReward.pt"), str(folder))
    image = torch.rand(2, 3, SIDE * PATCH, SIDE * PATCH, generator=torch.Generator().manual_seed(1))
    rows = [[2, *(TOKENS.index(token) for token in words), 3] for words in (["a", "c", "##a", "##t"], ["n", "##o"])]
    tokens = torch.tensor([[*row, *[0] * (35 - len(row))] for row in rows])
    mean, std = (
        torch.tensor(value, dtype=torch.float64).view(-1, 1, 1)
        for value in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    truth = expected((image.double() - mean) / std, tokens)
    torch.testing.assert_close(reward(image, TEXTS).double(), truth, rtol=1e-5, atol=1e-5)
    assert (truth[0] - truth[1]).abs() > 1e-2
    assert not torch.allclose(reward(image, TEXTS[::-1]).double(), truth, atol=1e-3)
    assert not torch.allclose(reward(image.flip(0), TEXTS).double(), truth, atol=1e-3)
    assert reward.state_dict() == {}
    assert not any(parameter.requires_grad for parameter in reward.parameters())
    large = F.interpolate(image, scale_factor=4, mode="nearest")
    assert reward(large, TEXTS).shape == (2,)
    assert torch.equal(ImageReward(str(folder / "ImageReward.pt"), str(folder))(image, TEXTS), reward(image, TEXTS))


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('run')",)


def test_what_does_not_fit_is_rejected(folder: Path, tmp_path: Path) -> None:
    def rejected(content: object, kind: type[Exception], message: str) -> None:
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(kind, match=message):
            ImageReward(str(tmp_path / "other.pt"), str(folder))

    own = weights()
    rejected({"a": torch.zeros(1)}, ValueError, "other.pt does not contain the weights of an ImageReward")
    less = {name: value for name, value in own.items() if "blocks.1.norm2.bias" not in name}
    rejected(less, ValueError, r"does not fit BlipVisionModel: missing: encoder.layers.1.layer_norm2.bias")
    rejected({**own, "mlp.layers.0.weight": torch.zeros(12, 5)}, ValueError, "must have linear layers with 128 inputs")
    few = {**own, "blip.text_encoder.embeddings.word_embeddings.weight": torch.zeros(20, WIDTH)}
    rejected(few, ValueError, f"other.pt has 20 tokens, but tokenizer .* has {len(TOKENS)}")
    with (tmp_path / "code.pt").open("wb") as file:
        pickle.dump({"mlp.layers.0.weight": Code()}, file)
    with pytest.raises(ValueError, match=r"code\.pt"):
        ImageReward(str(tmp_path / "code.pt"), str(folder))
    with pytest.raises(FileNotFoundError, match="no tokenizer /nowhere"):
        ImageReward(str(folder / "ImageReward.pt"), "/nowhere", local_files_only=True)
    with pytest.raises(FileNotFoundError, match=r"no ImageReward.pt at some/repository"):
        ImageReward("some/repository", str(folder), local_files_only=True)
