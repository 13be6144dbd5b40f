"""What `train.py doctor` looks at: this machine, and what a configuration needs of it."""
