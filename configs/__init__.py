"""The configs of the program; an installed program has them as `cljax.configs`."""

import sys

# They import each other as `configs`, which is not a name of the installed package.
sys.modules.setdefault("configs", sys.modules[__name__])
