"""nnunet_ext: a localizer -> ROI crop -> segmenter cascade for small head organs at risk, on top of nnU-Net v2."""

from typing import Any

from nnunet_ext._version import __version__

__all__ = ["CascadePredictor", "__version__"]


def __getattr__(name: str) -> Any:
    # On demand: importing nnU-Net takes seconds, and most of what is in this package does not need it.
    if name == "CascadePredictor":
        from nnunet_ext.cascade_predictor import CascadePredictor

        return CascadePredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
