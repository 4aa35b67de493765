"""nnunet_ext: a localizer -> ROI crop -> segmenter cascade for small head organs at risk, on top of nnU-Net v2."""

from importlib import import_module
from typing import Any

from nnunet_ext._version import __version__

#: Public name -> module that defines it. Imported when asked for, because importing nnU-Net takes seconds.
_MODULES = {
    "CascadePredictor": "nnunet_ext.prediction.cascade_predictor",
    "CascadeUNet": "nnunet_ext.cascade.networks",
}
__all__ = ["CascadePredictor", "CascadeUNet", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
