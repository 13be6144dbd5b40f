"""Download a pushed run from the Hugging Face Hub: only its settings and its weights."""

import re
from pathlib import Path

from datamodules.files.limits import sentence
from experiments.run_directory import WEIGHTS

SCHEME = "hf://"
FILES = ("config.yaml", WEIGHTS)
NAME = r"\w[\w.-]*"
ADDRESS = re.compile(rf"{SCHEME}(?P<repo_id>{NAME}/{NAME})(@(?P<revision>{NAME}(/{NAME})*))?")


def download_run(address: str) -> Path:
    """Download a run, or find it in the Hugging Face cache.

    Args:
        address: `hf://owner/name` or `hf://owner/name@revision`, with a branch, tag or commit.

    Returns:
        Folder with `config.yaml` and `model.safetensors`. The two files may be symbolic links.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"{address[:200]!r} is not the address of a run: expected hf://owner/name or hf://owner/name@revision"
        )
    repo_id, revision = match["repo_id"], match["revision"]
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise ValueError(f"{address}: {sentence(error)}") from error
    except GatedRepoError as error:
        raise PermissionError(
            f"{address} is gated: accept its conditions on https://huggingface.co/{repo_id} and log in with "
            f"`hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{address} does not exist, or is private: check the name, and log in with `hf auth login` to an account "
            f"that may read it"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repo_id} has no revision {revision}: give a branch, tag or commit") from error
    except Exception as error:  # offline mode, no network or server errors; the error types depend on the version
        raise FileNotFoundError(
            f"{address} is not in the Hugging Face cache and cannot be downloaded ({sentence(error)}): run "
            f"`hf download {repo_id}` where there is a network"
        ) from error
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{address} has no {name}: it is not a run that was uploaded by `push`")
    return folder
