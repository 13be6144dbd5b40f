"""What every method must pass, written once.

**Add your method here.** Write `configs/<method>/demo.yaml`: these tests find it. Add a row to
`tests/distributed/methods.py` that cuts the demo to a few core-seconds and, where two processes are compared with one,
takes out what looks at a process's whole share (BatchNorm, mixup's partners); random draws are replaced for you. A
class without a demo gets a row that puts it into another's. No method's own test file repeats what is here:

- `test_configs.py`: what a YAML says of itself, its keys, a training step at the paper's scale on the meta device;
- `test_runs.py`: training, testing, predicting; a stop within an epoch; reading back; seeds; precision; clipping;
- `tests/distributed/test_methods.py`: two processes give what one gives.
"""
