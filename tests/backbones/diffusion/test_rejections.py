from lightning_modules.backbones.diffusion.pipelines import diffusers_pipeline
from tests.rejections import Row, rejection_test

# fmt: off
REJECTED: list[Row] = [
    ("diffusers_pipeline local_files_only 1", lambda _: diffusers_pipeline("nobody/nothing", local_files_only=True),
     FileNotFoundError,
     "no such folder in .* Hugging Face cache, the only place that local_files_only .* `hf download"),
    ("diffusers_pipeline local_files_only 2", lambda _: diffusers_pipeline("/nowhere/at/all", local_files_only=True),
     FileNotFoundError, "no pipeline at /nowhere/at/all: expected a folder with model_index.json"),
    ("diffusers_pipeline local_files_only 3",
     lambda _: diffusers_pipeline("missing.safetensors", local_files_only=True), FileNotFoundError,
     "expected one file with all weights"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
