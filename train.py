"""The command line of noiseworks. `python train.py` lists its subcommands."""
# PYTHON_ARGCOMPLETE_OK

import sys

from experiments import commands
from experiments.arguments import COMPLETING, PROGRAM

OVERVIEW = """usage: train.py SUBCOMMAND [arguments]

Train and test the methods of noiseworks. An experiment is a YAML file under configs/.

    train.py fit --config configs/elr/demo.yaml [--config configs/trainer/ddp.yaml] [--any.key value]
    train.py fit --resume RUN_DIRECTORY                     resume an interrupted run
    train.py test --resume runs/elr/demo/TIMESTAMP
    train.py compare A.yaml B.yaml --seeds 0 1 2

subcommands, each with its own --help:
"""


def main(args: list[str] | None = None) -> int:
    """Run a subcommand, importing only what it needs, and return the exit status.

    Args:
        args: the subcommand and its arguments; None takes `sys.argv`, as the command `noiseworks` does.
    """
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
