"""Describe this machine, and find what configurations need and it lacks.

    python train.py doctor                              versions, devices, memory, disks, data, extras, variables
    python train.py doctor configs/elr/cifar10.yaml     also what this configuration needs: data, weights, extras, GPUs
    python train.py doctor configs/elr/cifar10.yaml -- --config configs/trainer/ddp.yaml --data.images.data_dir ~/data

Nothing is trained, written or downloaded, and no network is asked. The data of a configuration are read for at most ten
seconds. What is missing is found before that. The exit status is 1 if something that is needed is missing.
"""

import json
from argparse import Namespace
from pathlib import Path

from experiments.arguments import ArgumentParser
from experiments.offline import nothing_fetched


def arguments(parser: ArgumentParser) -> None:
    parser.takes_overrides = True
    parser.add_argument("configs", metavar="CONFIG", nargs="*", type=Path, help="configuration files")
    parser.add_argument(
        "--checksums", action="store_true", help="compare datasets under NOISEWORKS_DATA with published checksums"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(options: Namespace) -> int:
    from experiments.diagnosis.machine import MISSING, describe_machine
    from experiments.results import table, terminal

    rows = [*describe_machine(options.checksums)]
    with nothing_fetched():
        if options.configs:
            from experiments.diagnosis.configuration import check_configuration
            from lightning_modules.backbones.weights import SUFFIXES

            for config in options.configs:
                rows += check_configuration(config, options.overrides, SUFFIXES)
    if options.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        terminal().print(table("", ["subject", "name", "found", "state"], rows))
    return 1 if any(row.state == MISSING for row in rows) else 0
