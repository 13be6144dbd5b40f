import math

import pytest
import torch

from lightning_modules.noisy_labels.nmtune.spectrum import (
    Center,
    SingularSpectrum,
    largest_singular_value_ratio,
    singular_value_entropy,
)


@pytest.mark.parametrize(("sigma", "expected"), [([2.0] * 6, math.log(6)), ([0.0, 0.0, 3.0], 0.0)])
def test_equal_singular_values_have_the_greatest_entropy_and_ratio_and_a_single_one_has_neither(
    sigma: list[float], expected: float
) -> None:
    for measure in (singular_value_entropy, largest_singular_value_ratio):
        assert float(measure(torch.tensor(sigma, dtype=torch.float64))) == pytest.approx(expected)


@pytest.mark.parametrize(("center", "dim"), [("none", None), ("feature", 0), ("row", 1)])
def test_singular_values_are_those_of_centred_rows_of_unit_length_over_any_batches(
    center: Center, dim: int | None
) -> None:
    f = torch.randn(12, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3  # far from centred
    rows = f / f.norm(dim=1, keepdim=True)
    if dim is not None:
        rows = rows - rows.mean(dim=dim, keepdim=True)
    spectrum = SingularSpectrum(7, center)
    for part in f.split([5, 1, 6]):
        spectrum.update(part)
    torch.testing.assert_close(spectrum.compute(), torch.linalg.svdvals(rows).flip(0), rtol=1e-8, atol=1e-7)


def test_an_unknown_center_is_refused() -> None:
    with pytest.raises(ValueError, match="center must be one of none, feature, row, got 'rows'"):
        SingularSpectrum(7, "rows")  # type: ignore[arg-type]
