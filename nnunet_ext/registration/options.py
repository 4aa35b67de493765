"""How a registration is to be done."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ext.registration import elastix

BACKENDS = ("simpleitk", "elastix")


@dataclass(frozen=True)
class RegistrationOptions:
    """How images are registered.

    Args:
        elastic: Go on with a B-spline after the rigid step.
        seed: Of the sampling.
        knots_mm: Distance of the B-spline's knots.
        samples: Voxels the metric of the rigid fit looks at.
        elastic_samples: The same for the elastic fit, whose time grows with them.
        elastic_iterations: Most iterations of the elastic fit.
        together: Try one transform for all moving images; False registers each on its own.
        backend: Whose optimiser: `simpleitk`, or `elastix` (the package `itk-elastix`; ModuleNotFoundError without).
    """

    elastic: bool = True
    seed: int = 1
    knots_mm: float = 60.0
    samples: int = 100_000
    elastic_samples: int = 30_000
    elastic_iterations: int = 10
    together: bool = True
    backend: str = "simpleitk"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"registration backend {self.backend!r} is not one of {', '.join(BACKENDS)}")
        if self.backend == "elastix":
            elastix.require_elastix()
