"""The three calls that make a run, on the command line and from Python.

    from experiments.calls.build import build
    from experiments.calls.execute import execute
    from experiments.calls.parse import parse

    parsed = parse(["fit", "--config", "configs/elr/demo.yaml"])    # parsed.settings; nothing is built or written
    run = build(parsed)                                             # run.model, run.datamodule, run.trainer
    metrics = execute(run)                                          # trains, and returns the metrics

`parse` reads the settings. `build` builds model, data and trainer, and locks the run directory. With `build(parsed,
runs=False)`, the directory is not locked and the run is not executed. `execute` trains, validates, tests or predicts.
"""
