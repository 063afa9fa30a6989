"""From a folder of labelled images to the best fine-tuned classifier that a budget can buy.

import hpo
model = hpo.load("final/")
print(model.predict(["cell.jpg"])[0].label)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpo.bundle.model import load as load
    from hpo.inspection.inspect_data import inspect as inspect

__all__ = ["inspect", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # torch takes seconds to import; `import hpo` and `hpo --help` do not pay for it.
    if name == "load":
        from hpo.bundle.model import load

        return load
    if name == "inspect":
        from hpo.inspection.inspect_data import inspect

        return inspect
    raise AttributeError(f"module 'hpo' has no attribute {name!r}")
