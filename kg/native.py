"""The loops in `_native.pyx`, where the package was built with a C++ compiler: grounding is faster then.

Without them Python and numpy do the same, with the same answers.
"""

import logging
from types import ModuleType

VERSION = 6  # of `_native.pyx`

native: ModuleType | None = None
try:
    from groundwire.kg import _native

    if _native.VERSION != VERSION:
        raise ImportError(f"it is of version {_native.VERSION}, not {VERSION}")  # noqa: TRY301 - same remedy
    native = _native
except ImportError as error:
    logging.getLogger("groundwire.kg").info(
        "grounding runs without its compiled loops (%s); install Groundwire again with a C++ compiler", error
    )
