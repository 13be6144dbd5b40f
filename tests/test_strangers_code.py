"""No call in the source can run foreign code or load a pickle because of a default argument."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("callbacks", "datamodules", "experiments", "lightning_modules")
NETWORKS = ("network_class",)
"""Names of classes that run no code from their folder; their weights must be safetensors."""
FORBIDDEN = {
    "torch.jit.load", "torch.hub.load", "pickle.load", "pickle.loads", "joblib.load", "dill.load", "marshal.load",
    "marshal.loads", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "torch.package.PackageImporter",
    "eval", "exec", "shelve.open",
}  # fmt: skip


def faults(source: str) -> Iterator[str]:
    """Find calls that trust a file without stating a safe option."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name, said = ast.unparse(call.func), {key.arg: ast.unparse(key.value) for key in call.keywords}
        last = name.rpartition(".")[2]
        receiver = name.rpartition(".")[0]
        wanted: dict[str, str] = {}
        if last in ("from_pretrained", "from_single_file", "load_dataset") and receiver:
            wanted = {"trust_remote_code": "False"}
            if receiver in NETWORKS:
                wanted = {"use_safetensors": "True"}
            elif receiver == "found":
                wanted = {"use_safetensors": "True"} if last == "from_pretrained" else {}
        if name == "torch.load":
            wanted = {"weights_only": "True"}
        if name == "np.load" and said.get("allow_pickle", "False") != "False":
            yield f"{call.lineno}: {name} allows pickles"
        if name in FORBIDDEN or any(key in ("custom_pipeline", "custom_revision") for key in said):
            yield f"{call.lineno}: {name}"
        if any(said.get(key) != value for key, value in wanted.items()):
            yield f"{call.lineno}: {name} must say {wanted}"
        if said.get("trust_remote_code", "False") != "False" or said.get("weights_only", "True") != "True":
            yield f"{call.lineno}: {name} trusts what it reads"


@pytest.mark.parametrize(
    "source",
    [
        "AutoTokenizer.from_pretrained(name)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "network_class.from_pretrained(name, **options)",
        "found.from_pretrained(name)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
        "torch.hub.load(a, b)",
        "datasets.load_dataset(a)",
        "found.download(name, custom_pipeline=a)",
    ],
)
def test_a_call_that_trusts_is_found(source: str) -> None:
    assert list(faults(source))


def test_no_call_in_the_source_trusts_what_it_reads() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{fault}"
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*.py"))
        for fault in faults(file.read_text(encoding="utf-8"))
    ]
    assert not found
