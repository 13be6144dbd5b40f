"""The command line of noiseworks. `python train.py` lists what it can do."""
# PYTHON_ARGCOMPLETE_OK

import sys

from experiments.arguments import COMPLETING, PROGRAM, ArgumentParser, complete

OVERVIEW = """usage: train.py SUBCOMMAND [arguments]

Train and test the methods of noiseworks. An experiment is a YAML file under configs/.

subcommands:
  fit        train:   train.py fit --config configs/elr/demo.yaml [--config configs/trainer/ddp.yaml] [--any.key value]
  validate   measure on the validation set
  test       measure on the test set:   train.py test --resume runs/elr/demo/TIMESTAMP
  predict    write predictions of the test set
  compare    train and test several configurations over several seeds:   train.py compare A.yaml B.yaml --seeds 0 1 2
  claim      check a stated claim:      train.py claim configs/elr/claim.yaml
  methods    list every method, a line each; all of one:   train.py methods elr
  certified_curves   certified accuracy of several logs in one picture:   train.py certified_curves RUN_DIRECTORIES
  fid                FID and KID of two folders of images or their statistics:   train.py fid GENERATED REAL
  noise_library      cut noise sequences out of videos:   train.py noise_library VIDEOS LIBRARY
  label_report       suspected labels of all folds in one table:   train.py label_report RUN_DIRECTORIES

Each has its own --help. A run that was interrupted goes on with  train.py fit --resume RUN_DIRECTORY."""
OF_RUNS = ("fit", "validate", "test", "predict")
KNOWN = (*OF_RUNS, "compare", "claim", "certified_curves", "fid", "noise_library", "label_report", "methods")


def main(args: list[str] | None = None) -> int:
    """Runs a subcommand and returns the exit status. Nothing is imported that the subcommand does not need.

    Args:
        args: the subcommand and its arguments; None takes those of the process, as the command `noiseworks` does.
    """
    if COMPLETING and args is None:
        complete(KNOWN, OF_RUNS, main)
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(OVERVIEW.replace("train.py", PROGRAM))
        return 0
    subcommand = args[0]
    if subcommand in OF_RUNS:
        from experiments.command_line import run

        return run(args)
    if subcommand == "compare":
        from experiments import compare

        return compare.main(args[1:])
    if subcommand == "claim":
        from experiments import claim

        return claim.main(args[1:])
    if subcommand == "certified_curves":
        from callbacks.certification import compare as certified_curves

        return certified_curves.main(args[1:], ArgumentParser(f"{PROGRAM} certified_curves", certified_curves.__doc__))
    if subcommand == "fid":
        from callbacks.generation import folders

        return folders.main(args[1:], ArgumentParser(f"{PROGRAM} fid", folders.__doc__))
    if subcommand == "noise_library":
        from callbacks import noise_collection

        return noise_collection.main(args[1:], ArgumentParser(f"{PROGRAM} noise_library", noise_collection.__doc__))
    if subcommand == "label_report":
        from callbacks.labels import merge

        return merge.main(args[1:], ArgumentParser(f"{PROGRAM} label_report", merge.__doc__))
    if subcommand == "methods":
        from experiments import catalogue

        try:
            return catalogue.main(args[1:])
        except BrokenPipeError:  # `train.py methods | head` has read enough
            sys.stdout = None  # type: ignore[assignment]  # the interpreter would flush it
            return 0
    print(f"error: there is no subcommand {subcommand}; choose one of {', '.join(KNOWN)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
