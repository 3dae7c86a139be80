"""Sets, before JAX starts, what all tests and the programs that they start share."""

import os

import jaxlib.version

# Whether XLA has the flag; later ones would end the process at it.
_HAS_FUSION_EMITTERS_FLAG = jaxlib.version.__version_info__ < (0, 11)
# Programs of tiny networks take longer to compile than to run; this halves the time of the tests.
FAST_COMPILE = "--xla_backend_optimization_level=0"
if _HAS_FUSION_EMITTERS_FLAG:
    FAST_COMPILE += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FAST_COMPILE)
# Options with which two programs that say the same in other words round the same, as for users.
AS_USERS_ROUND: dict = {"xla_cpu_use_fusion_emitters": True} if _HAS_FUSION_EMITTERS_FLAG else {}
# Options of a program that is to be compiled as users compile it.
AS_USERS_COMPILE: dict = AS_USERS_ROUND | {"xla_backend_optimization_level": 1}
# What tests give the programs that they start, if their networks are too slow otherwise.
FAST_RUN = "--xla_backend_optimization_level=1"
