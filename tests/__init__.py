"""Sets, before JAX starts, what all tests and the programs that they start share."""

import os

# Most programs of the tests take longer to compile than to run.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
