"""Where TINYRES_REQUIRE_ORACLE is set, as continuous integration does, a missing PyTorch is an error and no skip."""

import os

if os.environ.get("TINYRES_REQUIRE_ORACLE"):
    import torch  # noqa: F401
