"""Properties of all linear operators, tested with their dense matrices."""

import numpy as np
import pytest
import torch

from datamodules.corruptions.operators import (
    AverageDownsampling,
    Bicubic,
    Blur,
    FreeForm,
    Grayscale,
    Inpainting,
    LinearOperator,
    Operator,
    RandomPixels,
)

SHAPE = (3, 8, 12)
INDEX = torch.tensor([5])
LINEAR: dict[str, Operator] = {
    "free form": FreeForm(),
    "random pixels": RandomPixels(0.5),
    "mask": Inpainting(torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.4),
    "block mean": AverageDownsampling(2),
    "block mean 4": AverageDownsampling(4),
    "bicubic": Bicubic(2),
    "bicubic 4": Bicubic(4),
    "blur": Blur(5, 25.0),
    "narrow blur": Blur(3, 0.6),
    "channel mean": Grayscale(),
}


def dense(function: object, shape: tuple[int, ...]) -> np.ndarray:
    """Return the matrix of a linear map of tensors `[1, *shape]`, column by column."""
    columns = torch.eye(int(np.prod(shape)), dtype=torch.float64).view(-1, 1, *shape)
    return np.stack([function(column).flatten().numpy() for column in columns], axis=1)  # type: ignore[operator]


@pytest.mark.parametrize("name", LINEAR)
def test_transpose_and_pseudo_inverse_are_those_of_the_matrix(name: str) -> None:
    operator = LINEAR[name].of(INDEX, SHAPE[1:])
    assert isinstance(operator, LinearOperator)
    shape = tuple(operator.forward(torch.zeros(1, *SHAPE, dtype=torch.float64)).shape[1:])
    h, transpose = dense(operator.forward, SHAPE), dense(operator.transpose, shape)
    inverse = dense(operator.pseudo_inverse, shape)
    np.testing.assert_allclose(transpose, h.T, atol=1e-14)
    np.testing.assert_allclose(inverse, np.linalg.pinv(h, rcond=1e-8), atol=1e-11)
    np.testing.assert_allclose(h @ inverse @ h, h, atol=1e-12)
    np.testing.assert_allclose(h @ inverse, (h @ inverse).T, atol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_the_gradient_of_the_data_term_is_the_transpose_of_the_residual(name: str) -> None:
    operator = LINEAR[name].of(INDEX, SHAPE[1:])
    assert isinstance(operator, LinearOperator)
    random = torch.Generator().manual_seed(1)
    image, other = (torch.randn(1, *SHAPE, generator=random, dtype=torch.float64) for _ in range(2))
    image.requires_grad_(True)
    residual = operator.forward(other) - operator.forward(image)
    (gradient,) = torch.autograd.grad(residual.square().sum() / 2, image)
    torch.testing.assert_close(gradient, -operator.transpose(residual.detach()))


@pytest.mark.parametrize("name", LINEAR)
def test_a_function_of_the_singular_values_is_that_of_the_matrix(name: str) -> None:
    """The result is V g(S) V^T; this g differs between singular values, and also scales the null space."""
    operator = LINEAR[name].of(INDEX, SHAPE[1:])
    assert isinstance(operator, LinearOperator)
    h = dense(operator.forward, SHAPE)
    _, s, vt = np.linalg.svd(h)
    values = np.zeros(len(vt))
    values[: len(s)] = np.where(s > 1e-8, s, 0)
    found = dense(lambda image: operator.apply_filter(image, lambda s: 1 / (0.1 + s**2)), SHAPE)
    np.testing.assert_allclose(found, vt.T / (0.1 + values**2) @ vt, atol=1e-9)


@pytest.mark.parametrize("operator", [RandomPixels(0.5, seed=3), FreeForm(seed=3)])
def test_masks_follow_from_seed_and_position_alone(operator: Operator) -> None:
    def masks(index: list[int], operator: Operator = operator) -> torch.Tensor:
        return operator.of(torch.tensor(index), (16, 20)).forward(torch.ones(len(index), 1, 16, 20))

    whole = masks([0, 4, 7])
    assert torch.equal(whole[1:], masks([4, 7]))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, masks([0, 4, 7], type(operator)(seed=4)))  # type: ignore[call-arg]
