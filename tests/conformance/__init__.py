"""Tests that every method must pass, written once for all methods.

**Add your method here.** Write `configs/<method>/demo.yaml`: these tests find it automatically. Add a row to
`tests/distributed/methods.py` that reduces the demo to a few core-seconds. For the comparison of two processes with
one, the row must remove everything that depends on a process's whole share of the batch, such as BatchNorm and the
partners of mixup. Random draws are replaced automatically. For a class without a demo, the row inserts the class into
the demo of a different class. The test file of a method does not repeat these tests:

- `test_configs.py` and `test_full_scale.py`: a YAML file's description, its keys, a training step at full scale on the
  meta device;
- `test_runs.py`: training, testing, predicting; a stop within an epoch; loading a run; seeds; precision; clipping;
- `tests/distributed/test_methods.py`: two processes give the same results as one.
"""
