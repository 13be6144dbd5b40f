"""`python -m tests.gpu`."""

import sys

from tests.gpu.command import main

sys.exit(main(sys.argv[1:]))
