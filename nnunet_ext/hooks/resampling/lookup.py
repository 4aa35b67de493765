"""Where nnU-Net finds our resampling functions: it lies inside its package and names it; checked against nnunetv2 2.8.1.

nnU-Net asks every module in turn whether it has a function of the wanted name. It is imported only when it is ours
that is wanted (PEP 562), so a stock nnU-Net command never imports, and is never slowed or broken by, this package.
"""

from collections.abc import Callable
from importlib import import_module

LOOKUPS = {
    "resample_image": "nnunet_ext.cascade.resampling",
    "resample_label_map": "nnunet_ext.cascade.resampling",
}


def __getattr__(name: str) -> Callable:
    if name not in LOOKUPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(LOOKUPS[name]), name)
    except AttributeError as error:  # nnU-Net asks with `hasattr`, which would report a mistake of ours as "not found"
        raise ImportError(f"cannot import {name} from {LOOKUPS[name]}: {error}") from error
