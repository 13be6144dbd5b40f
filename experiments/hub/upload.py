"""Upload a folder to the Hugging Face Hub."""

from pathlib import Path

from datamodules.files.limits import sentence
from experiments.hub.model_card import HUB_NAME


def check_repo_id(repo_id: str) -> None:
    """Raise an error if the Hub does not allow a repository name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(sentence(error)) from error
    if not HUB_NAME.fullmatch(repo_id):
        raise ValueError(f"the repository must be OWNER/NAME, got {repo_id!r}")


def licence_of(name: str, online: bool) -> str | None:
    """Read the licence in the model card of a Hub model. Return None if there is no licence or no readable card.

    Args:
        name: `owner/name` of the model.
        online: whether the card may be downloaded. False reads only the Hugging Face cache.
    """
    from huggingface_hub import ModelCard, hf_hub_download

    try:
        return ModelCard.load(hf_hub_download(name, "README.md", local_files_only=not online)).data.license
    except Exception:  # no network, no card, or invalid metadata in the card
        return None


def upload(folder: Path, repo_id: str, private: bool, revision: str | None) -> str:
    """Upload a folder in one commit to a model repository. The repository is created if it does not exist.

    Returns:
        URL of the commit.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RevisionNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        return str(
            api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message="Upload run")
        )
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo_id} has no branch {revision}: create it, or omit --revision") from error
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        response = getattr(error, "response", None)
        status = 401 if isinstance(error, LocalTokenNotFoundError) else getattr(response, "status_code", None)
        if status in (401, 403):
            raise PermissionError(
                f"{repo_id} cannot be written: log in with `hf auth login`, or set HF_TOKEN, with a token that may "
                f"write to {repo_id.partition('/')[0]}"
            ) from error
        raise ConnectionError(f"{repo_id} could not be uploaded: {sentence(error)}") from error
    except Exception as error:  # offline mode or no network; the error types depend on the version
        raise ConnectionError(
            f"{repo_id} could not be uploaded ({sentence(error)}): --output FOLDER writes the folder without a network"
        ) from error
