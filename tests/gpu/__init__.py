"""Measurements that need a GPU, in one command: `make gpu`, or `python -m tests.gpu` with its options.

Each item runs in a separate process, and saves each row immediately under runs/gpu/<card>. A stopped command can
therefore be resumed, and a failing item does not affect the others. `docs/gpu.md` is written after each item.
"""
