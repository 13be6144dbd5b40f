import pytest

from lightning_modules.full_precision import require_double
from tests.trainers import standing


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_method_of_64_bit_refuses_less(precision: str) -> None:
    require_double(standing(precision="64-true"), "Halley")
    with pytest.raises(ValueError, match=f"trainer.precision must be 64-true for Halley, got {precision}"):
        require_double(standing(precision=precision), "Halley")
