"""`python -m hf_slap.cli`, where the folder of `slap` is not on the search path."""

import sys

from . import main

sys.exit(main())
