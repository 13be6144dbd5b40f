"""Products with the Hessian and the Gauss-Newton matrix, compared with explicit matrices."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_modules.metrics import curvature
from lightning_modules.metrics.curvature import CurvatureProduct, Matrix, curvature_mode, refuse_without_curvature

X = torch.randn(11, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(11) % 3
BATCHES = [(X[:7], Y[:7]), (X[7:], Y[7:])]


def network(*hidden: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), *hidden, nn.Linear(4, 3)).double()


def explicit(module: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Compute the Hessian of the mean loss by autograd over a flat weight vector."""
    named = dict(module.named_parameters())
    vector = torch.cat([each.detach().flatten() for each in named.values()])

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([each.numel() for each in named.values()])
        weights = {name: part.view_as(each) for (name, each), part in zip(named.items(), parts, strict=True)}
        losses = [F.cross_entropy(functional_call(module, weights, x), y, reduction="sum") for x, y in batches]
        return sum(losses, torch.zeros((), dtype=flat.dtype)) / sum(len(y) for _, y in batches)

    return torch.autograd.functional.hessian(loss, vector)  # type: ignore[return-value]


def matrix_of(module: nn.Module, batches: list[tuple[Tensor, Tensor]], matrix: Matrix) -> Tensor:
    product = CurvatureProduct(module, batches, matrix)
    return torch.stack([product(each) for each in torch.eye(product.size, dtype=torch.float64)])


def test_the_hessian_is_autograds_and_symmetric() -> None:
    module = network(nn.Tanh())
    with curvature_mode(module, "running"):
        ours = matrix_of(module, BATCHES, "hessian")
        torch.testing.assert_close(ours, explicit(module, BATCHES), rtol=0, atol=1e-10)
    torch.testing.assert_close(ours, ours.T, rtol=0, atol=1e-12)


def test_gauss_and_newtons_matrix_is_never_negative_and_the_hessian_of_what_is_linear() -> None:
    module, linear = network(nn.Tanh()), nn.Sequential(nn.Linear(5, 3)).double()
    assert torch.linalg.eigvalsh(matrix_of(module, BATCHES, "gauss_newton")).min() > -1e-12
    assert torch.linalg.eigvalsh(matrix_of(module, BATCHES, "hessian")).min() < -1e-4
    ours = matrix_of(linear, BATCHES, "gauss_newton")
    torch.testing.assert_close(ours, explicit(linear, BATCHES), rtol=0, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(
        lambda weight: functional_call(linear, {"0.weight": weight}, X), linear[0].weight.detach()
    )
    p = linear(X).detach().softmax(dim=1)
    curved = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    by_weight = torch.einsum("nkij,nkl,nlab->ijab", jacobian, curved, jacobian).reshape(15, 15) / 11
    torch.testing.assert_close(ours[:15, :15], by_weight, rtol=0, atol=1e-10)


def test_dropout_is_off_and_batch_norm_is_as_asked_for_and_unchanged() -> None:
    module = network(nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5))
    module[1].running_var.fill_(3.0)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    with curvature_mode(module, "batch"):
        of_batches = matrix_of(module, BATCHES, "hessian")
        torch.testing.assert_close(of_batches, explicit(module, BATCHES), rtol=0, atol=1e-10)
        assert torch.equal(matrix_of(module, BATCHES, "gauss_newton"), matrix_of(module, BATCHES, "gauss_newton"))
    with curvature_mode(module, "running"):
        running = matrix_of(module, BATCHES, "hessian")
        torch.testing.assert_close(running, explicit(module, BATCHES), rtol=0, atol=1e-10)
    assert not torch.allclose(of_batches, running)
    assert all(part.training for part in module.modules())
    assert module[1].track_running_stats
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())


def test_frozen_weights_are_left_out_and_the_gradient_is_of_the_mean() -> None:
    module = network(nn.Tanh())
    module[0].requires_grad_(False)
    product = CurvatureProduct(module, BATCHES)
    assert product.size == 15
    F.cross_entropy(module(X), Y).backward()
    expected = torch.cat([each.grad.flatten() for each in module[2].parameters()])
    torch.testing.assert_close(product.gradient(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("limit", "passes"), [(1 << 20, 2), (0, 4)])
def test_graphs_are_kept_within_a_limit_and_follow_the_weights(
    limit: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For three products, a batch whose graph is kept needs only one pass; the first batch's graph is always kept."""
    monkeypatch.setattr(curvature, "KEPT_BYTES", limit)
    module, seen = network(nn.Tanh()), list[int]()
    handle = module.register_forward_hook(lambda *_: seen.append(1))
    with curvature_mode(module, "running"):
        product, vectors = CurvatureProduct(module, BATCHES), torch.eye(39, dtype=torch.float64)[:3]
        ours = torch.stack([product(each) for each in vectors])
        assert len(seen) == passes
        torch.testing.assert_close(ours, explicit(module, BATCHES)[:3], rtol=0, atol=1e-12)
        with torch.no_grad():
            module[0].weight.mul_(2)
        torch.testing.assert_close(product(vectors[0]), explicit(module, BATCHES)[0], rtol=0, atol=1e-12)
    handle.remove()


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"needs single precision or better, and .* is in half"):
        CurvatureProduct(network().bfloat16(), BATCHES)


class Attending(nn.Module):
    """A linear layer, either after attention with the kernel that has no second derivative, or in autocast."""

    def __init__(self, features: int, classes: int, fused: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)
        self.scale = nn.Parameter(torch.ones(()))
        self.fused = fused

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.scale * inputs.flatten(1)[:, None, None]
        if self.fused:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return self.linear(F.scaled_dot_product_attention(x, x, x)[:, 0, 0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(x[:, 0, 0]).float()


def test_a_network_without_a_second_derivative_or_in_autocast_is_refused() -> None:
    few = [(X[:2].float(), Y[:2])]
    with pytest.raises(ValueError, match="Curvature needs second derivatives, which Attending lacks"):
        refuse_without_curvature(Attending(5, 3, True), few, "batch", "Curvature")
    network = Attending(5, 3, False)
    with pytest.raises(ValueError, match="Curvature needs single precision or better, but Linear uses autocast"):
        refuse_without_curvature(network, few, "batch", "Curvature")
    assert not network.linear._forward_pre_hooks
    refuse_without_curvature(network.linear, few, "batch", "Curvature")
