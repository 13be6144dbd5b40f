"""The command line of noiseworks. `python train.py` lists its subcommands."""
# PYTHON_ARGCOMPLETE_OK

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("experiments", "callbacks", "lightning_modules", "datamodules")

OVERVIEW = """usage: train.py SUBCOMMAND [arguments]

Train and test the methods of noiseworks. An experiment is a YAML file under configs/.

    train.py fit --config configs/elr/demo.yaml [--config configs/trainer/ddp.yaml] [--any.key value]
    train.py fit --resume RUN_DIRECTORY                     resume an interrupted run
    train.py test --resume runs/elr/demo/TIMESTAMP
    train.py compare A.yaml B.yaml --seeds 0 1 2

subcommands, each with its own --help:
"""


def find_shadowing_package() -> str | None:
    """Describe the first package of this project that is hidden by another package of the same name, or return None."""
    for name in PACKAGES:
        spec, own = find_spec(name), Path(__file__).resolve().with_name(name)
        found = [] if spec is None else spec.submodule_search_locations or [spec.origin or "a built-in module"]
        if own not in [Path(place).resolve() for place in found]:
            other = f"Python finds {found[0]} instead" if found else "Python does not find it"
            return (
                f"the package {name} of noiseworks is {own}, but {other}: install noiseworks in an environment of its "
                f"own, and keep other packages of that name off PYTHONPATH"
            )
    return None


def protect_child_processes() -> None:
    """Keep the working directory, which may be the run of a stranger, off the import path of all child processes.

    Python would otherwise put it first for `python -c` and `python -m`, by which libraries start processes.
    """
    own, given = str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    if own not in (given or "").split(os.pathsep):  # with a safe path, Python omits the folder of train.py, too
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (own, given)))


def main(args: list[str] | None = None) -> int:
    """Run a subcommand, importing only the modules that it needs, and return the exit status.

    Args:
        args: subcommand and its arguments. None means the arguments in `sys.argv`, as for the command `noiseworks`.
    """
    if args is None:
        protect_child_processes()
    if wrong := find_shadowing_package():
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    from experiments import commands
    from experiments.arguments import COMPLETING, PROGRAM
    from experiments.offline import work_offline

    work_offline()
    if COMPLETING and args is None:
        commands.complete()
    args = sys.argv[1:] if args is None else args
    known = commands.names()
    if not args or args[0] in ("-h", "--help"):
        width = max(map(len, known))
        lines = [f"  {name:{width}}  {commands.summary(name)}" for name in known]
        print(OVERVIEW.replace("train.py", PROGRAM) + "\n".join(lines))
        return 0
    if args[0] in known:
        return commands.run(args[0], args[1:])
    print(f"error: there is no subcommand {args[0]}; choose one of {', '.join(known)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
