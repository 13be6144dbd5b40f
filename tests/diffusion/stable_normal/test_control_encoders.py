import pytest
import torch
from torch import nn

from lightning_modules.diffusion.stable_normal.control_encoders import (
    SemanticEncoder,
    control_encoder,
    inject_residuals,
    run_control_encoder,
    skip_layers,
)
from tests.diffusion.stable_normal.small import latent, unet

KINDS = [
    (("CrossAttnDownBlock2D", "DownBlock2D"), 1),
    (("DownBlock2D", "CrossAttnDownBlock2D"), 2),
    (("DownBlock2D", "DownBlock2D"), 1),
]
TIME, TEXT = torch.tensor([3, 700]), latent(2, 1, 8, seed=5)


@pytest.mark.parametrize(("blocks", "layers"), KINDS)
def test_residuals_are_added_before_skips_are_kept_and_before_the_next_layer(
    blocks: tuple[str, str], layers: int
) -> None:
    """Compare with a manual pass through the U-Net's encoder.

    There is one residual per skip connection, and the hooks are removed afterwards.
    """
    torch.manual_seed(0)
    network, x = unet(blocks, layers), latent(2, 3, 8, 8)
    skips, _ = run_control_encoder(control_encoder(network), x, TIME, TEXT)
    added = [latent(*skip.shape, seed=number) for number, skip in enumerate(skips)]
    assert len(added) == len(skip_layers(network)) == 1 + 2 * layers + 1
    kept, middle = [], {}
    hooks = [
        block.register_forward_hook(lambda module, args, output: kept.extend(output[1]))
        for block in network.down_blocks
    ]
    hooks += [network.mid_block.register_forward_pre_hook(lambda module, args: middle.update(x=args[0]))]
    with inject_residuals(network, added):
        network(x, TIME, TEXT)
    for hook in hooks:
        hook.remove()
    emb = network.time_embedding(network.time_proj(TIME).double())
    remaining = iter(added)
    state = network.conv_in(x) + next(remaining)
    expected = []
    for block in network.down_blocks:
        for number, resnet in enumerate(block.resnets):
            state = resnet(state, emb)
            if hasattr(block, "attentions"):
                state = block.attentions[number](state, encoder_hidden_states=TEXT, return_dict=False)[0]
            state = state + next(remaining)
            expected.append(state)
        for downsampler in block.downsamplers or []:
            state = downsampler(state) + next(remaining)
            expected.append(state)
    torch.testing.assert_close(kept, expected)
    torch.testing.assert_close(middle["x"], state)
    with (
        pytest.raises(RuntimeError, match=r"expanded size|must match"),
        inject_residuals(network, [added[-1]] * len(added)),
    ):
        network(x, TIME, TEXT)
    assert not any(module._forward_hooks for module in network.modules())
    without = network(x, TIME, TEXT).sample
    with inject_residuals(network, [torch.zeros_like(one) for one in added]):
        assert torch.equal(network(x, TIME, TEXT).sample, without)
    with pytest.raises(ValueError, match="zip"), inject_residuals(network, added[1:]):
        pass


def test_gradients_reach_residuals_through_recomputed_layers() -> None:
    torch.manual_seed(0)
    network, x = unet(), latent(2, 3, 8, 8)
    skips, _ = run_control_encoder(control_encoder(network), x, TIME, TEXT)
    gradients = []
    for recomputed in (False, True):
        if recomputed:
            network.enable_gradient_checkpointing()
        network.train()
        added = [latent(*skip.shape, seed=number).requires_grad_() for number, skip in enumerate(skips)]
        with inject_residuals(network, added):
            output = network(x, TIME, TEXT).sample
        gradients.append(torch.autograd.grad(output.square().sum(), [*added, network.conv_in.weight]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_semantic_encoder_gives_nothing_at_first_and_its_zero_layers_learn_first() -> None:
    torch.manual_seed(0)
    network = unet()
    encoder = SemanticEncoder(network, channels=12).double()
    assert isinstance(encoder.encoder.conv_in, nn.Identity)
    residuals = encoder(latent(2, 12, 4, 4), (8, 8), TEXT)
    skips, _ = run_control_encoder(control_encoder(network), latent(2, 3, 8, 8), TIME, TEXT)
    assert [one.shape for one in residuals] == [skip.shape for skip in skips]
    assert not any(one.any() for one in residuals)
    sum((one - 1).square().sum() for one in residuals).backward()
    first, *others = encoder.encoder.controlnet_down_blocks  # the input of the first one is zero, too
    assert first.bias.grad.any()
    assert all(layer.weight.grad.any() for layer in others)
    assert float(encoder.embedding[0].weight.detach().std()) == pytest.approx(0.02, rel=0.1)
