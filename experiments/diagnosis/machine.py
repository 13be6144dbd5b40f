"""Describe this machine: versions, devices, memory, disks, datasets, extras and environment variables."""

import hashlib
import os
import platform
import resource
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

from experiments.config_files import PROJECT
from experiments.launching.devices import gpu_memory
from experiments.offline import VARIABLE, is_offline
from experiments.run_request import cores, machine

OK, NOTE, MISSING = "ok", "note", "missing"


class Row(NamedTuple):
    """A line of the table. `missing` is what a run cannot do without, and `note` what the user may want to change."""

    subject: str
    name: str
    found: str
    state: str = OK


EXTRAS = {
    "lora": "tuning: lora, which is low-rank fine-tuning",
    "pipelines": "diffusers pipelines with text encoders, transformers networks, texts",
    "quantized": "quantization of frozen weights under LoRA",
    "inverse": "operators of deepinv, such as tomography",
    "attacks": "AutoAttack",
    "bm3d": "the baseline BM3D",
    "fid": "FID and KID without a download of weights",
    "raw": "camera raw files",
    "nifti": "CT volumes of SegTHOR",
    "mat": ".mat files of MATLAB 7.3, such as DND",
    "hub-data": "datasets of the Hugging Face Hub by name",
    "label-report": "comparison of suspected labels with cleanlab",
    "segmentation": "smp_model, which builds segmentation networks by name",
    "audio": "recordings, and the metric ESTOI",
    "pesq": "the metric PESQ",
    "onnx": "export --format onnx",
    "dnsmos": "the metric DNSMOS",
    "rooms": "speech in simulated rooms",
    "video": "video files",
    "no-reference": "no-reference image metrics of pyiqa",
    "ood": "OODScores",
    "imitation": "simulated environments",
    "optimizers": "optimizers of other packages, such as schedule-free ones",
    "tune": "the command tune",
    "slurm": "compare --launcher slurm",
    "ray": "compare --launcher ray",
    "completion": "the shell's completion of arguments",
}
"""What each extra is for, as in pyproject.toml. Extras for development are left out."""
VARIABLES = (
    *("NOISEWORKS_DATA", "NOISEWORKS_TRACEBACK", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONPATH", "TMPDIR"),
    *("HF_HOME", "HF_HUB_CACHE", VARIABLE, "HF_DATASETS_CACHE", "HF_ENDPOINT", "TORCH_HOME", "TRANSFORMERS_OFFLINE"),
    *("SLURM_JOB_ID", "SLURM_NTASKS", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NCCL_SOCKET_IFNAME", "NCCL_DEBUG"),
    *("GLOO_SOCKET_IFNAME", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "RAY_ADDRESS", "WANDB_MODE", "MLFLOW_TRACKING_URI"),
)
"""Environment variables that change a run. None of them contains a secret."""
SHARED_MEMORY = 2**30
"""Size of /dev/shm below which DataLoader workers may fail. In Docker, it is 64 MiB by default."""


def describe_machine(checksums: bool) -> Iterator[Row]:
    """Yield the rows of all subjects. `checksums` reads the datasets whose sums are published."""
    yield from describe_software()
    yield from describe_devices()
    yield from describe_folders()
    yield from describe_data(os.environ.get("NOISEWORKS_DATA"), checksums)
    yield from describe_extras()
    for name in VARIABLES:
        if name in os.environ:
            yield Row("environment", name, os.environ[name])
    said = f"nothing is fetched, as {VARIABLE} is set" if is_offline() else f"only downloads; {VARIABLE}=1 forbids them"
    yield Row("environment", "network", said)


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return the required packages, and those of each extra, from pyproject.toml or from the installed package."""
    if (file := PROJECT / "pyproject.toml").is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        of_extras = project["optional-dependencies"]
        return [*map(Requirement, project["dependencies"])], {
            extra: [Requirement(text) for text in of_extras[extra]] for extra in EXTRAS
        }
    every = [*map(Requirement, metadata.requires("noiseworks") or [])]
    own = {extra: [each for each in every if f'extra == "{extra}"' in str(each.marker)] for extra in EXTRAS}
    return [each for each in every if "extra ==" not in str(each.marker)], own


def lacks(needed: Requirement) -> str | None:
    """Say in what way a package is missing. None means that it is installed in a suitable version."""
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return f"{needed.name} is not installed"
    if needed.specifier.contains(version, prereleases=True):
        return None
    return f"{needed.name} is {version}, but {needed.specifier} is needed"


def describe_software() -> Iterator[Row]:
    import torch

    yield Row("software", "python", f"{platform.python_version()}, {sys.executable}")
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    shown = {"torch": f"{torch.__version__}, {cuda}"}
    for name in ("lightning", "torchmetrics", "torchvision", "timm", "diffusers", "numpy"):
        shown[name] = metadata.version(name)
    for name, version in shown.items():
        yield Row("software", name, version)
    core, _ = requirements()
    for fault in filter(None, map(lacks, core)):
        yield Row("software", "required", f"{fault}: install noiseworks again", MISSING)


def describe_devices() -> Iterator[Row]:
    import torch

    yield Row("devices", "machine", machine()["machine"])
    yield Row("devices", "memory", f"{free_memory():.1f} GiB free, {cores()} cores")
    listed, seen = gpu_memory(), torch.cuda.device_count()
    for name, total, free in listed:
        yield Row("devices", "GPU", f"{name}, {free:.1f} of {total:.1f} GiB free")
    if listed and not seen:
        why = "CUDA_VISIBLE_DEVICES hides them" if "CUDA_VISIBLE_DEVICES" in os.environ else "its CUDA does not fit"
        why = why if torch.version.cuda else "this build has no CUDA: install another from https://pytorch.org"
        yield Row("devices", "GPU", f"torch sees none of {len(listed)} GPUs: {why}", NOTE)
    elif not seen:
        yield Row("devices", "GPU", "none", NOTE)
    elif seen != len(listed):
        yield Row("devices", "GPU", f"torch sees {seen}")
    distributed: Any = torch.distributed
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else "not in this build"
    gloo = distributed.is_available() and distributed.is_gloo_available()
    yield Row("devices", "NCCL", nccl, OK if torch.version.cuda or not listed else NOTE)
    yield Row("devices", "gloo", "available" if gloo else "not in this build", OK if gloo else NOTE)
    if os.path.isdir("/dev/shm") and (size := shutil.disk_usage("/dev/shm").total) < SHARED_MEMORY:
        found = f"{size / 2**20:.0f} MiB: DataLoader workers need more, as with docker run --ipc=host"
        yield Row("devices", "/dev/shm", found, NOTE)
    if (files := resource.getrlimit(resource.RLIMIT_NOFILE)[0]) < 1024:
        yield Row("devices", "open files", f"at most {files}: raise the limit with ulimit -n 4096", NOTE)


def free_memory() -> float:
    """Return the free memory in GiB, which a container or a SLURM job may limit."""
    free = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = [int(lines["MemAvailable"].split()[0]) * 1024]
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].partition("::")[2]
        for folder in (Path("/sys/fs/cgroup" + group), Path("/sys/fs/cgroup")):
            if (limit := (folder / "memory.max").read_text().strip()) != "max":
                free.append(int(limit) - int((folder / "memory.current").read_text()))
    except (OSError, KeyError, ValueError):
        pass
    return min(free) / 2**30


def describe_folders() -> Iterator[Row]:
    """Yield the folders that are written, with the free space on their disks."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from torch.hub import get_dir

    folders = {"runs": "runs", "Hugging Face cache": HF_HUB_CACHE, "torch.hub cache": get_dir()}
    for name, folder in {**folders, "temporary": tempfile.gettempdir()}.items():
        path = Path(folder).expanduser().absolute()
        existing = next(each for each in (path, *path.parents) if each.exists())
        writable = os.access(existing, os.W_OK)
        found = f"{path}, {shutil.disk_usage(existing).free / 2**30:.1f} GiB free"
        yield Row("folders", name, found + ("" if writable else ", not writable"), OK if writable else NOTE)


def describe_data(given: str | None, checksums: bool) -> Iterator[Row]:
    """Yield the folder of the datasets, its subfolders, and those datasets whose checksums torchvision publishes."""
    if not given:
        yield Row(
            "data", "NOISEWORKS_DATA", "not set: it is the folder of the datasets for which data_dir is not set", NOTE
        )
        return
    folder = Path(given).expanduser()
    if not folder.is_dir():
        yield Row("data", "NOISEWORKS_DATA", f"{folder} is not a folder: create it, or correct the variable", NOTE)
        return
    names = sorted(each.name for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    free = shutil.disk_usage(folder).free / 2**30
    yield Row("data", "NOISEWORKS_DATA", f"{folder}, {free:.1f} GiB free: {', '.join(names) or 'empty'}")
    for name, sums in published_sums().items():
        there = {folder / file: md5 for file, md5 in sums.items() if (folder / file).is_file()}
        if not there:
            continue
        absent = [file for file in sums if folder / file not in there]
        damaged = [str(file) for file, md5 in there.items() if checksums and _md5(file) != md5]
        if absent or damaged:
            what = f"lacks {absent[0]}" if absent else f"{damaged[0]} has another checksum"
            yield Row("data", name, f"{what}: fetch the set again", NOTE)
        else:
            yield Row("data", name, f"{len(sums)} files{', with the published checksums' * checksums}")


def published_sums() -> dict[str, dict[str, str]]:
    """Return the MD5 sums that torchvision publishes, by dataset and file below the folder of the datasets.

    Those of MNIST are of the downloaded archives, which torchvision leaves beside the files that are read.
    """
    from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN

    found = {
        name: {f"{kind.base_folder}/{file}": md5 for file, md5 in (*kind.train_list, *kind.test_list)}
        for name, kind in {"CIFAR-10": CIFAR10, "CIFAR-100": CIFAR100}.items()
    }
    files = [SVHN.split_list[split] for split in ("train", "test")]
    found["MNIST archives"] = {f"MNIST/raw/{file}": md5 for file, md5 in MNIST.resources}
    return {**found, "SVHN": {str(file): str(md5) for _, file, md5 in files}}


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def describe_extras() -> Iterator[Row]:
    """Yield the installed extras, and for each missing one what it is for."""
    _, of_extras = requirements()
    faults = {extra: [*filter(None, map(lacks, needed))] for extra, needed in of_extras.items()}
    yield Row("extras", "installed", ", ".join(extra for extra, own in faults.items() if not own) or "none")
    for extra, own in faults.items():
        if own:
            found = f"{'; '.join(own)}. It is for {EXTRAS[extra]}: pip install 'noiseworks[{extra}]'"
            yield Row("extras", extra, found, NOTE)
