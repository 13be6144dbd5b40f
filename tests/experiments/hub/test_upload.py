"""huggingface_hub uploads the folder in one commit; rejections by the Hub are reported in one sentence."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError

from tests.experiments.hub.conftest import push


class StandInApi:
    """Records the uploaded folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error: Exception | None = None

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append((repo_id, options))

    def upload_folder(self, repo_id: str, folder_path: Path, **options: Any) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append((repo_id, options))
        shutil.copytree(folder_path, self.folder)
        return f"https://huggingface.co/{repo_id}/commit/0"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInApi:
    own = StandInApi(tmp_path / "uploaded")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: own)
    return own


def test_what_is_uploaded_is_what_is_written(
    own_run: Path, pushed: Path, api: StandInApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(own_run, "me/cats", "--private", "--revision", "v1", "--license", "mit", "--dataset", "me/images") == 0
    assert "uploaded: https://huggingface.co/me/cats/commit/0" in capsys.readouterr().out
    (_, created), (_, options) = api.calls
    assert created == {"private": True, "exist_ok": True}
    assert options["revision"] == "v1"
    assert {path.name for path in api.folder.iterdir()} == {path.name for path in pushed.iterdir()}
    for name in ("config.yaml", "model.safetensors", "test_metrics.csv"):
        assert (api.folder / name).read_bytes() == (pushed / name).read_bytes()
    card = ModelCard.load(api.folder / "README.md")
    assert (card.data.license, card.data.datasets) == ("mit", ["me/images"])
    assert 'load_run("hf://me/cats")' in card.text


def test_without_a_licence_the_user_is_told(own_run: Path, api: StandInApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(own_run, "me/cats") == 0
    assert "the model card states no licence: set --license" in capsys.readouterr().out
    assert ModelCard.load(api.folder / "README.md").data.license == "unknown"
    assert api.calls[0][1]["private"] is None


def answered(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    error = kind.__new__(kind)
    Exception.__init__(error, "the server says\nno")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            LocalTokenNotFoundError("no token"),
            "me/cats cannot be written: log in with `hf auth login`",
        ),
        (answered(403), "with a token that may write to me"),
        (answered(404, RevisionNotFoundError), "me/cats has no branch v1: create it, or omit --revision"),
        (answered(500), "me/cats could not be uploaded: "),
        (OfflineModeIsEnabled("offline mode"), "could not be uploaded (offline mode): --output FOLDER writes"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    error: Exception, said: str, own_run: Path, api: StandInApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.error = error
    assert push(own_run, "me/cats", "--revision", "v1") == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
