"""List the methods with their papers, configurations, requirements and claims.

    python train.py methods                   one line per method
    python train.py methods elr               details of a method, by its class, file, folder or configuration folder
    python train.py methods --field robustness

The list is read from the source files without importing them.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from experiments.catalogue import claims_of, describe_method, find_methods, one_line
from experiments.config_files import PROJECT


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("names", metavar="METHOD", nargs="*", help="methods to describe, for example elr")
    parser.add_argument("--field", help="only methods of this folder of lightning_modules")


def run(options: Namespace, project: Path = PROJECT) -> int:
    try:
        methods = find_methods(project)
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    fields = sorted({method.field for method in methods})
    if options.field and options.field not in fields:
        raise ValueError(f"--field must be one of {', '.join(fields)}, got {options.field}")
    methods = [method for method in methods if options.field in (None, method.field)]
    for name in options.names:
        if not any(name.lower() in method.names for method in methods):
            known = ", ".join(method.name for method in methods)
            raise ValueError(f"there is no method {name}; the methods are {known}")
    chosen = [method for method in methods if method.names & {name.lower() for name in options.names}]
    lines = [line for method in chosen for line in describe_method(method, claims_of(method, project))]
    try:
        for line in lines or one_line(methods):
            print(line)
    except BrokenPipeError:  # for example, in `train.py methods | head`
        sys.stdout = None  # otherwise the interpreter would flush it
    return 0
