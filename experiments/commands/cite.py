"""Print BibTeX of the method, networks, data and libraries that a run or a configuration uses.

    python train.py cite configs/elr/cifar10.yaml                  or a run directory
    python train.py cite runs/compare/elr/demo-vs-demo_baseline    all runs below a folder, with their baselines

The references are those of the `Source:` paragraphs in the docstrings, and of CITATION.cff. A comment above each entry
says what it is the reference of. Nothing is imported.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from experiments.config_files import locate_config, similar_file
from experiments.paper.citations import cite


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("paths", metavar="RUN | CONFIG", nargs="+", type=Path, help="runs, folders of runs, YAML files")


def run(options: Namespace) -> int:
    paths = [locate_config(path) for path in options.paths]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist{similar_file(path)}")
    print(cite(paths), end="")
    return 0
