from pathlib import Path

import pytest

from tests.callbacks.attacks.half_space import callback, run


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Return the run directory of a finished evaluation, and its metrics."""
    directory = tmp_path_factory.mktemp("finished")
    return directory, run(directory, callback())
