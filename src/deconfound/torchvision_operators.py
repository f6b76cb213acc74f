"""Make `import torchvision` work where its compiled operators do not fit the torch that is installed.

torchvision describes two of its operators to torch while it is imported, and fails if its compiled library
could not be loaded (a CPU build of torch beside a torchvision built for another one). Data sets, transforms
and timm never call these operators; declaring their names is enough.
"""

import importlib
import sys
from functools import cache

import torch

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # a library vanishes with the last reference to it


@cache
def ensure() -> None:
    """Import torchvision; where its operators are missing, declare them, without code, and import again."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # modules of the import that failed half-way
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in OPERATORS:
        library.define(operator + SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)
    importlib.import_module("torchvision")
