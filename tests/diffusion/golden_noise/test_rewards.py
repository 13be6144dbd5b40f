"""CLIP as a reward compared with its own processor, open_clip weights with independent attention, and rejections."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lightning_modules.diffusion.golden_noise import AestheticReward, ClassProbability, CLIPReward
from tests.tiny_pipelines import VOCABULARY, save_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny CLIP model for 16 x 16 images."""
    return save_clip(tmp_path_factory.mktemp("clip"))


def images() -> Tensor:
    bytes_ = torch.randint(0, 256, (2, 3, 36, 24), generator=torch.Generator().manual_seed(0))
    return bytes_.float() / 255


def test_with_local_files_only_a_cached_model_is_loaded_without_the_network(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers would look up the Hub's host for files that the cache lacks, even with `local_files_only`."""
    model = tmp_path / "models--me--clip"
    shutil.copytree(clip, model / "snapshots" / "abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was used"))
    assert CLIPReward("me/clip", local_files_only=True)(images(), ["a", "b"]).shape == (2,)
    with pytest.raises(FileNotFoundError, match=r"no CLIP model me/none: .* the only place that local_files"):
        CLIPReward("me/none", local_files_only=True)


def test_a_score_is_100_times_the_cosine_that_clips_own_processor_gives(clip: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    texts, model = ["a cat", "dog"], CLIPModel.from_pretrained(clip)
    pictures = [Image.fromarray((255 * each).round().byte().permute(1, 2, 0).numpy()) for each in images()]
    pixels = CLIPImageProcessor.from_pretrained(clip)(pictures, return_tensors="pt")["pixel_values"]
    tokens = CLIPTokenizer.from_pretrained(clip)(texts, padding="max_length", max_length=16, return_tensors="pt")
    with torch.no_grad():
        expected = F.cosine_similarity(
            *(getattr(model(**tokens, pixel_values=pixels), f"{k}_embeds") for k in ("image", "text"))
        )
    reward = CLIPReward(str(clip))
    torch.testing.assert_close(reward(images(), texts), 100 * expected, rtol=0, atol=0.5)  # images are rounded
    assert reward.state_dict() == {}
    assert not any(parameter.requires_grad for parameter in reward.parameters())


def open_clip_tower(state: dict[str, Tensor], prefix: str, x: Tensor, mask: Tensor | None) -> Tensor:
    for block in range(2):
        own = {
            k.removeprefix(name): v
            for k, v in state.items()
            if k.startswith(name := f"{prefix}transformer.resblocks.{block}.")
        }

        def norm(x: Tensor, name: str, own: dict[str, Tensor] = own) -> Tensor:
            return F.layer_norm(x, (16,), own[f"{name}.weight"], own[f"{name}.bias"])

        attention = nn.MultiheadAttention(16, 2, batch_first=True)
        attention.load_state_dict({k.removeprefix("attn."): v for k, v in own.items() if k.startswith("attn.")})
        y = norm(x, "ln_1")
        x = x + attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        hidden = F.gelu(F.linear(norm(x, "ln_2"), own["mlp.c_fc.weight"], own["mlp.c_fc.bias"]))
        x = x + F.linear(hidden, own["mlp.c_proj.weight"], own["mlp.c_proj.bias"])
    return x


def open_clip_weights() -> dict[str, Tensor]:
    """Draw weights with open_clip's names for the architecture of the fixture."""
    random = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {
        **{"positional_embedding": (16, 16), "text_projection": (16, 12), "logit_scale": ()},
        **{"token_embedding.weight": (2 + len(VOCABULARY), 16), "ln_final.weight": (16,), "ln_final.bias": (16,)},
        **{"visual.class_embedding": (16,), "visual.positional_embedding": (5, 16), "visual.proj": (16, 12)},
        **{"visual.conv1.weight": (16, 3, 8, 8)},
        **{f"visual.{name}.{kind}": (16,) for name in ("ln_pre", "ln_post") for kind in ("weight", "bias")},
    }
    block = {"attn.in_proj_weight": (48, 16), "attn.in_proj_bias": (48,), "attn.out_proj.weight": (16, 16)}
    block |= {"attn.out_proj.bias": (16,), "mlp.c_fc.weight": (32, 16), "mlp.c_fc.bias": (32,)}
    block |= {"mlp.c_proj.weight": (16, 32), "mlp.c_proj.bias": (16,)}
    block |= {f"{name}.{kind}": (16,) for name in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    for tower in ("", "visual."):
        shapes |= {f"{tower}transformer.resblocks.{n}.{name}": shape for n in range(2) for name, shape in block.items()}
    return {name: 0.3 * torch.randn(shape, generator=random) for name, shape in shapes.items()}


def test_weights_of_open_clip_such_as_hpsv2s_give_open_clips_cosine(clip: Path, tmp_path: Path) -> None:
    state = open_clip_weights()
    torch.save({"epoch": 1, "state_dict": {**state, "attn_mask": torch.zeros(16, 16)}}, tmp_path / "hps.pt")
    reward = CLIPReward(str(clip), weights=str(tmp_path / "hps.pt"))
    image, texts = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)), ["a cat", "dog"]
    mean, std = (
        torch.tensor(v).view(-1, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    x = F.conv2d((image - mean) / std, state["visual.conv1.weight"], stride=8).flatten(2).mT
    x = torch.cat([state["visual.class_embedding"].expand(2, 1, -1), x], dim=1) + state["visual.positional_embedding"]
    x = F.layer_norm(x, (16,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    x = open_clip_tower(state, "visual.", x, None)[:, 0]
    seen = F.layer_norm(x, (16,), state["visual.ln_post.weight"], state["visual.ln_post.bias"]) @ state["visual.proj"]
    tokens = reward.tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt").input_ids
    mask = torch.full((16, 16), -torch.inf).triu(1)
    y = open_clip_tower(state, "", state["token_embedding.weight"][tokens] + state["positional_embedding"], mask)
    y = F.layer_norm(y, (16,), state["ln_final.weight"], state["ln_final.bias"])
    told = y[torch.arange(2), (tokens == 1).int().argmax(dim=1)] @ state["text_projection"]
    torch.testing.assert_close(reward(image, texts), 100 * F.cosine_similarity(seen, told), rtol=1e-4, atol=1e-3)


def test_weights_that_do_not_fit_are_refused(clip: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"visual.proj": torch.zeros(16, 12), "other": torch.zeros(1)}}, tmp_path / "hps.pt")
    with pytest.raises(ValueError, match=r"hps.pt does not fit CLIPModel: missing: .*; unexpected: other"):
        CLIPReward(str(clip), weights=str(tmp_path / "hps.pt"))


def test_the_probability_is_that_of_the_class_that_the_text_names() -> None:
    reward = ClassProbability(nn.Flatten(), ["no", "yes"])
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]]).view(2, 1, 1, 2)
    found = reward(logits, ["yes", "yes"])
    torch.testing.assert_close(found, torch.tensor([1.0, -2.0]).sigmoid())
    with pytest.raises(ValueError, match="captions must contain every text that is scored; missing: maybe"):
        reward(logits, ["yes", "maybe"])


def test_an_aesthetic_score_is_linear_in_the_normalised_embedding(clip: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel

    shapes = {"layers.0": (5, 12), "layers.2": (3, 5), "layers.4": (1, 3)}
    layers = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    layers |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    ordered = {f"{name}.{part}": layers[f"{name}.{part}"] for name in shapes for part in ("weight", "bias")}
    torch.save(ordered, tmp_path / "head.pth")
    reward = AestheticReward(str(clip), str(tmp_path / "head.pth"))
    model = CLIPModel.from_pretrained(clip)
    with torch.no_grad():
        embedding = model.visual_projection(model.vision_model(reward.pixels(images())).pooler_output)
    x = embedding / embedding.norm(dim=1, keepdim=True)
    for name in shapes:
        x = x @ layers[f"{name}.weight"].T + layers[f"{name}.bias"]
    torch.testing.assert_close(reward(images(), ["a", "b"]), x[:, 0])
    torch.testing.assert_close(reward(images(), ["", ""]), x[:, 0])  # texts have no effect
    assert reward.state_dict() == {}
    # version 1 is a single layer
    torch.save({"weight": torch.ones(1, 12), "bias": torch.tensor([2.0])}, tmp_path / "one.pth")
    found = AestheticReward(str(clip), str(tmp_path / "one.pth"))(images(), ["", ""])
    torch.testing.assert_close(found, torch.nn.functional.normalize(embedding).sum(dim=1) + 2)


@pytest.mark.parametrize(
    "layers",
    [
        {"weight": (1, 11), "bias": (1,)},
        {"weight": (2, 12), "bias": (2,)},
        {"weight": (1, 12)},
        {"weight": (1, 12), "bias": (2,)},
        {"weight": (1, 12), "bias": (1,), "scale": (1,)},
        {"0.weight": (4, 12), "0.bias": (4,), "1.weight": (1, 5), "1.bias": (1,)},
    ],
)
def test_other_weights_than_an_aesthetic_heads_are_rejected(
    clip: Path, tmp_path: Path, layers: dict[str, tuple[int, ...]]
) -> None:
    torch.save({name: torch.zeros(shape) for name, shape in layers.items()}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"head.pth must have linear layers with 12 inputs and one output, got "):
        AestheticReward(str(clip), str(tmp_path / "head.pth"))
