"""Imitate `train.py fit` and `test`, with the same arguments and files, in milliseconds. `model` in the config sets:

start         test accuracy of seed 0; each further seed adds `per_seed`
best_epoch    if set, accuracy of the best epoch
seconds       duration of an epoch
crash         seeds that end with an error in the second epoch
killed        signals, keyed by seed, that end the run in the second epoch
width         if set, the run measures a risk, width ** -0.5 times a factor that depends on the seed
reach         largest width with a finite risk in odd seeds
diverges      smallest width that diverges, except for the seeds in `stable_seeds`
empty         seeds that end without results and without an error
launch        whether to launch a child process that sleeps
x             if set, (x - 0.3) ** 2 is subtracted from the validation accuracy of each epoch
fails_above   smallest x with which the run ends with an error

Every event is a line of `journal.txt` next to the config: config, seed, event, and a detail.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path


def given(flag: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else default


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def main() -> None:
    command = sys.argv[1]
    assert command in ("fit", "test")
    place = given("--resume") + given("--run_directory")
    tunes = "tune" in place or ("trial_" in place and not given("--test_after_fit"))
    assert given("--test_after_fit") == ("true" if command == "fit" and not tunes else "")
    directory = Path(given("--resume") or given("--run_directory"))
    if given("--resume"):
        config = json.loads((directory / "config.yaml").read_text())
        done = json.loads((directory / "checkpoints/last.ckpt").read_text())
    else:
        assert not list(directory.glob("checkpoints/*.ckpt"))
        path = Path(given("--config"))
        config = json.loads("".join(line for line in path.open() if not line.startswith("#")))
        config |= {"seed": int(given("--seed_everything")), "journal": str(path.parent / "journal.txt")}
        config["trainer"]["max_epochs"] = int(given("--trainer.max_epochs", str(config["trainer"]["max_epochs"])))
        for flag, value in zip(sys.argv, sys.argv[1:], strict=False):
            if flag.startswith("--model."):
                config["model"][flag.removeprefix("--model.")] = json.loads(value)
        put(directory / "config.yaml", json.dumps(config))
        done = []
    seed, model = config["seed"], config["model"]

    def note(*what: object) -> None:
        with open(config["journal"], "a") as journal:
            print(directory.name if tunes else directory.parent.name, seed, *what, file=journal)

    note("resumed" if given("--resume") else "started", len(done))
    note("threads", os.environ.get("OMP_NUM_THREADS"))
    for name in ("NODE", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            note(name, os.environ[name] or "none")
    if model.get("launch"):
        note("launched", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1200)"]).pid)
    print("training", seed)
    if model.get("x", 0) > model.get("fails_above", math.inf):
        sys.exit("x is too large")
    limits = directory / ".limits.csv"
    limit = dict(line.split(",") for line in limits.read_text().split()[1:]) if limits.exists() else {}
    pruned = False
    for epoch in range(len(done), config["trainer"]["max_epochs"] if command == "fit" else 0):
        time.sleep(model.get("seconds", 0))
        if epoch == 1 and str(seed) in model.get("killed", {}):
            os.kill(os.getpid(), model["killed"][str(seed)])
        if epoch == 1 and seed in model.get("crash", []):
            print("first line of the error\nlast line of the error", file=sys.stderr)
            sys.exit(3)
        worse = (model["x"] - 0.3) ** 2 if "x" in model else 0
        done.append([0.5**epoch, 1 - 0.5**epoch - 0.01 * seed - worse])
        lines = ["epoch,step,train/loss_epoch,train/loss_step,val/accuracy"]
        for i, (loss, accuracy) in enumerate(done):
            lines += [f"{i},{10 * i + 9},{loss},,", f"{i},{10 * i + 9},,0.5,{accuracy}"]
        put(directory / "metrics.csv", "\n".join(lines) + "\n")
        put(directory / "checkpoints/last.ckpt", json.dumps(done))
        note("epoch", epoch)
        if pruned := tunes and done[-1][1] < float(limit.get(str(epoch), -math.inf)):
            break
    if tunes:
        put(directory / "trained.csv", f"metric,value\npruned,{int(pruned)}\nnoisy_validation_labels,0\n")
        note("finished", len(done))
        return
    if seed in model.get("empty", []):
        return
    accuracy = model["start"] + model.get("per_seed", 0.01) * seed
    metrics = {"test/accuracy": accuracy, "test/memorized": 0.1 + 0.1 * seed**2}
    if "best_epoch" in model:
        metrics = {"best_epoch/test/accuracy": model["best_epoch"] + 0.001 * seed, **metrics}
    if width := model.get("width"):
        factor = 2.0 + 0.1 * seed + 0.01 * seed * width**0.5
        metrics["test/risk"] = math.inf if width > model.get("reach", width) and seed % 2 else factor * width**-0.5
        metrics["test/diverged"] = 0.0
        if width >= model.get("diverges", math.inf) and seed not in model.get("stable_seeds", []):
            metrics = {"test/diverged": 1.0, "test/diverged_step": 17.0}
    put(directory / "test_metrics.csv", "metric,value\n" + "".join(f"{k},{v!r}\n" for k, v in metrics.items()))
    note("finished", len(done))


if __name__ == "__main__":
    main()
