from pathlib import Path

import pytest

from tests.callbacks.certification.planes import certification, run


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Return the run directory of a finished certification, and its metrics."""
    directory = tmp_path_factory.mktemp("finished")
    return directory, run(directory, certification())
