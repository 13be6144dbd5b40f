"""NPNet compared with its equations, at its full size, and with weights in the authors' layout."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from timm import create_model
from torch import Tensor, nn

from lightning_modules.backbones import timm_model
from lightning_modules.backbones.diffusion.text_to_image import Prompts
from lightning_modules.diffusion.golden_noise import NPNet, with_released_weights
from lightning_modules.diffusion.golden_noise.npnet import fix_signs, fold_tiles, unfold_tiles
from tests.diffusion.golden_noise.small import npnet, randn


def prompts(n: int = 3, seed: int = 5) -> Prompts:
    return Prompts(randn(n, 3, 2, seed=seed))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_fold_is_a_bijection_with_images_side_by_side(k: int) -> None:
    x = randn(2, k * k, 4, 4)
    matrix = fold_tiles(x)
    for channel in range(k * k):
        row, column = divmod(channel, k)
        block = matrix[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(block, x[:, channel])
    assert torch.equal(unfold_tiles(matrix, k), x)


@pytest.mark.parametrize("channels", [1, 4])
def test_without_weights_the_first_branch_gives_its_input(channels: int) -> None:
    branch = npnet(channels).svd
    x = randn(3, channels, 8, 8)
    assert not torch.allclose(branch(x), x, atol=1e-3)
    for name, parameter in branch.named_parameters():
        if name.startswith("mlp"):
            nn.init.zeros_(parameter)
    torch.testing.assert_close(branch(x), x, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("attention", [True, False])
def test_the_output_is_the_equation(attention: bool) -> None:
    network, c = npnet(attention=attention, fixed_signs=False), prompts()
    nn.init.constant_(network.alpha, 0.7)
    nn.init.constant_(network.beta, 0.3)
    state, x = {name: value.detach() for name, value in network.named_parameters()}, randn(3, 4, 8, 8)

    def mlp(name: str, value: Tensor) -> Tensor:
        layers = [key for key in state if key.startswith(f"svd.{name}.") and key.endswith("weight")]
        for position, key in enumerate(layers):
            value = value.relu() if position else value
            value = value @ state[key].T + state[key.replace("weight", "bias")]
        return value

    expected = []
    for image, text in zip(x, c.embedding, strict=True):
        mean = (image - image.mean()) / (image.var(correction=0) + 1e-6).sqrt()
        scale, shift = (state["text.linear.weight"] @ text.flatten() + state["text.linear.bias"]).chunk(2)
        e = mean * (1 + scale[:, None, None]) + shift[:, None, None]
        rows = torch.cat([torch.cat(list(image[:2]), dim=1), torch.cat(list(image[2:]), dim=1)])
        u, s, vh = torch.linalg.svd(rows)
        hidden = mlp("mlp1", u.T) + mlp("mlp2", vh) + mlp("mlp3", s)
        if attention:
            q, k, v = (hidden @ state["svd.attention.qkv.weight"].T).view(16, 3, 8, 2).permute(1, 2, 0, 3)
            mixed = ((q @ k.mT / math.sqrt(2)).softmax(dim=-1) @ v).transpose(0, 1).reshape(16, 16)
            hidden = mixed @ state["svd.attention.proj.weight"].T + state["svd.attention.proj.bias"]
            moved = mlp("mlp4", hidden.mean(dim=0))
        else:
            moved = mlp("mlp4", hidden).mean(dim=0)
        matrix = u @ torch.diag(s + moved) @ vh
        svd = torch.stack([matrix[:8, :8], matrix[:8, 8:], matrix[8:, :8], matrix[8:, 8:]])
        place = [(12 * row) // 8 for row in range(8)]  # nearest-neighbour interpolation from 12 pixels to 8
        grown = (image + e)[:, [row * 8 // 12 for row in range(12)]][:, :, [row * 8 // 12 for row in range(12)]]
        maps = network.residual.features(network.residual.downconv(grown[None]))[0]
        residual = network.residual.upconv(maps[None, :, place][:, :, :, place])[0]
        expected.append(svd + (2 / (1 + math.exp(-0.7)) - 1) * e + 0.3 * residual)
    torch.testing.assert_close(network(x, c), torch.stack(expected))


def test_at_first_no_text_counts_and_the_residual_branch_waits_for_its_weight() -> None:
    network, x = npnet(), randn(3, 4, 8, 8)
    found = network(x, prompts())
    assert torch.equal(found, network(x, prompts(seed=6)))
    (found - randn(3, 4, 8, 8, seed=1)).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert gradients["alpha"].abs() > 0  # type: ignore[union-attr]
    assert gradients["beta"].abs() > 0  # type: ignore[union-attr]
    assert all(not gradient.any() for name, gradient in gradients.items() if name.startswith(("residual", "text")))  # type: ignore[union-attr]
    nn.init.constant_(network.beta, 0.1)
    network(x, prompts()).square().mean().backward()
    assert network.residual.downconv.weight.grad.any()  # type: ignore[union-attr]


def test_the_weight_of_the_text_is_odd_and_below_one() -> None:
    network, x = npnet(), randn(2, 4, 8, 8)
    first, e = network.svd(x), network.text(x, prompts(2).embedding.flatten(1))
    weights = {}
    for alpha in (-30.0, -2.0, 0.5, 2.0, 30.0):
        nn.init.constant_(network.alpha, alpha)
        weights[alpha] = ((network(x, prompts(2)) - first) / e).mean().item()
    assert all(abs(weight) <= 1 for weight in weights.values())
    assert list(weights.values()) == sorted(weights.values())
    assert weights[2.0] == pytest.approx(-weights[-2.0], abs=1e-9)
    assert weights[0.5] == pytest.approx(math.tanh(0.25), abs=1e-9)


def test_a_batch_is_its_samples_each_with_its_own_text() -> None:
    network, x, c = npnet(), randn(3, 4, 8, 8), prompts()
    nn.init.constant_(network.alpha, 0.7)
    nn.init.constant_(network.beta, 0.3)
    alone = torch.cat([network(x[[row]], c.rows([row])) for row in range(3)])
    torch.testing.assert_close(network(x, c), alone)
    assert not torch.allclose(network(x, c.rows([0, 0, 0]))[1:], alone[1:], atol=1e-3)


def test_signs_of_singular_vectors_are_fixed() -> None:
    u, s, vh = torch.linalg.svd(randn(3, 8, 8))
    flips = randn(3, 1, 8, seed=2).sign()
    found = [fix_signs(left, right) for left, right in ((u, vh), (u * flips, vh * flips.mT))]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    left, right = found[0]
    torch.testing.assert_close(left @ torch.diag_embed(s) @ right, u @ torch.diag_embed(s) @ vh)
    assert (left.amax(dim=-2) == left.abs().amax(dim=-2)).all()


def test_half_precision_around_it_changes_nothing() -> None:
    network, x, c = npnet().float(), randn(2, 4, 8, 8).half(), prompts(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x, c)
    assert found.dtype == torch.float16
    assert torch.equal(found, network(x.float(), c).half())


def full_size(**more: Any) -> NPNet:
    features = timm_model("swin_tiny_patch4_window7_224", num_classes=0, normalize=False)
    return NPNet((4, 128, 128), 77 * 2048, features, **more)


def test_parameters_at_full_size() -> None:
    with torch.device("meta"):
        network = full_size()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert count["svd"] == 919_936
    assert count["text"] == 1_261_576
    assert count["residual"] == 27_519_354 + 15 + 32  # Swin-T without classifier, and two convolutions
    noise, text = (torch.empty(shape, device="meta") for shape in ((2, 4, 128, 128), (2, 77, 2048)))
    assert network(noise, Prompts(text)).shape == noise.shape


def released(path: Path, **more: Any) -> dict[str, Any]:
    """Write weights of a small NPNet in the format of the authors' training code, and return the content."""
    size, n, c = 8, 16, 4
    shapes = {"mlp1": (64, n), "mlp2": (64, n), "mlp4": (1024, n)}
    svd = {f"{name}.0.weight": randn(*shape) for name, shape in shapes.items()}
    svd |= {f"{name}.0.bias": randn(shape[0]) for name, shape in shapes.items()}
    svd |= {f"{name}.2.weight": randn(n, shape[0]) for name, shape in shapes.items()}
    svd |= {f"{name}.2.bias": randn(n) for name in shapes}
    svd |= {"mlp3.0.weight": randn(n, n), "mlp3.0.bias": randn(n), "attention.qkv.weight": randn(3 * n, n)}
    svd |= {"attention.proj.weight": randn(n, n), "attention.proj.bias": randn(n), "bn.weight": randn(n)}
    swin = create_model("swin_tiny_patch4_window7_224", embed_dim=8, depths=(1, 1), num_heads=(1, 2), img_size=56)
    residual = {f"swin.{name}": value for name, value in swin.state_dict().items()}
    residual |= {"downconv.weight": randn(3, c, 1, 1), "downconv.bias": randn(3)}
    residual |= {"upconv.weight": randn(c, 7, 1, 1), "upconv.bias": randn(c)}
    text = {"linear.weight": randn(2 * c, 6), "linear.bias": randn(2 * c)}
    content = {"unet_svd": svd, "unet_embedding": residual, "embeeding": text}
    content |= {"alpha": torch.tensor([0.4], requires_grad=True), "beta": torch.tensor([0.2]), **more}
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return {"size": size, **content}


def small_swin() -> NPNet:
    swin = create_model(
        "swin_tiny_patch4_window7_224", embed_dim=8, depths=(1, 1), num_heads=(1, 2), img_size=56, num_classes=0
    )
    return NPNet((4, 8, 8), 6, swin, image_size=56, fixed_signs=False)


def test_weights_in_the_authors_layout_are_read(tmp_path: Path) -> None:
    content = released(tmp_path / "sdxl.pth")
    network = with_released_weights(small_swin(), str(tmp_path / "sdxl.pth"))
    assert network.alpha.item() == pytest.approx(0.4)
    torch.testing.assert_close(
        network.svd.mlp4[2].weight.double(), content["unet_svd"]["mlp4.2.weight"].float().double()
    )
    key = "layers.1.blocks.0.attn.qkv.weight"
    assert torch.equal(network.residual.features.get_parameter(key), content["unet_embedding"][f"swin.{key}"])
    assert network(torch.randn(2, 4, 8, 8), Prompts(torch.randn(2, 3, 2))).shape == (2, 4, 8, 8)
