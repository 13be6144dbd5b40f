"""What only a GPU can show, in one command: `make gpu`, or `python -m tests.gpu` with its options.

Each item runs in a process of its own and keeps its rows as they come under runs/gpu/<card>, so that a command that was
stopped goes on, and one item that fails costs itself alone. `docs/gpu.md` is written after each of them.
"""
