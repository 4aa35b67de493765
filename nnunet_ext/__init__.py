"""nnunet_ext: a localizer -> ROI crop -> segmenter cascade for small head organs at risk, on top of nnU-Net v2.

The public names are here. Each is imported from its package when it is first asked for, because importing nnU-Net takes
seconds. The packages:

- `labels`: organs, their names, values, volumes and colours.
- `images`: one 3D image, its file and its grid in space.
- `cleaning`: the body in a CT, without couch and fixation mask.
- `dicom`: DICOM series and RTSTRUCT, in and out.
- `pictures`: slices with contours, and surfaces.
- `registration`: MR onto the CT.
- `cases`: a case found, read and prepared.
- `dataset_conversion`: sources into a raw data set of nnU-Net.
- `plans`: the planners that nnU-Net finds by name.
- `trainers`: the trainers that nnU-Net finds by name.
- `cascade`: the ROI, and the other parts that nnU-Net plugs in.
- `training`: recipe, schedule, augmentation, losses and checkpoints.
- `rivals`: networks of other groups, trained on the same cases.
- `postprocessing`: steps on organs' masks after the networks.
- `superresolution`: thin slices of thick ones, by a network that learns from the slices' own plane.
- `prediction`: both stages over many cases.
- `atlas`: contours from those of the nearest training cases.
- `evaluation`: scores against references.
- `reporting`: experiments side by side, and the page to look at cases.
- `phantom`: synthetic heads with exact labels.
- `end_to_end`: the demo, the study, the training that starts from a model, and the benchmarks.
- `starter`: the small model inside the package.
- `installation`: lookup modules in nnU-Net, models from a zip file, and the check of an environment.
- `hooks`: the lookup modules themselves.
- `cli`: the command `nnunet_ext`, one file per verb.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnunet_ext._version import __version__

if TYPE_CHECKING:
    from nnunet_ext.cascade.networks import CascadeUNet
    from nnunet_ext.cascade.roi import RoiRule, find_roi
    from nnunet_ext.dataset_conversion.convert import convert
    from nnunet_ext.dataset_conversion.listing import list_cases
    from nnunet_ext.dicom.rtstruct_writer import rtstruct
    from nnunet_ext.evaluation.evaluating import evaluate
    from nnunet_ext.evaluation.metrics import score_organ
    from nnunet_ext.evaluation.postprocessing_choice import choose_postprocessing
    from nnunet_ext.evaluation.score_files import read_evaluation
    from nnunet_ext.installation.doctor import doctor
    from nnunet_ext.installation.hooking import write_hooks
    from nnunet_ext.installation.models import install_model
    from nnunet_ext.phantom.from_maps.making import make_phantoms_from_maps
    from nnunet_ext.phantom.making import make_phantoms
    from nnunet_ext.prediction.cascade_predictor import CascadePredictor
    from nnunet_ext.prediction.predicting import predict
    from nnunet_ext.registration.registering import register
    from nnunet_ext.registration.to_files import register_files
    from nnunet_ext.reporting.reporting import report
    from nnunet_ext.reporting.viewing import view

#: Public name -> module that defines it; the imports above say the same to type checkers.
_MODULES = {
    "CascadePredictor": "nnunet_ext.prediction.cascade_predictor",
    "CascadeUNet": "nnunet_ext.cascade.networks",
    "RoiRule": "nnunet_ext.cascade.roi",
    "choose_postprocessing": "nnunet_ext.evaluation.postprocessing_choice",
    "convert": "nnunet_ext.dataset_conversion.convert",
    "doctor": "nnunet_ext.installation.doctor",
    "evaluate": "nnunet_ext.evaluation.evaluating",
    "find_roi": "nnunet_ext.cascade.roi",
    "install_model": "nnunet_ext.installation.models",
    "list_cases": "nnunet_ext.dataset_conversion.listing",
    "make_phantoms": "nnunet_ext.phantom.making",
    "make_phantoms_from_maps": "nnunet_ext.phantom.from_maps.making",
    "predict": "nnunet_ext.prediction.predicting",
    "read_evaluation": "nnunet_ext.evaluation.score_files",
    "register": "nnunet_ext.registration.registering",
    "register_files": "nnunet_ext.registration.to_files",
    "report": "nnunet_ext.reporting.reporting",
    "rtstruct": "nnunet_ext.dicom.rtstruct_writer",
    "score_organ": "nnunet_ext.evaluation.metrics",
    "view": "nnunet_ext.reporting.viewing",
    "write_hooks": "nnunet_ext.installation.hooking",
}
__all__ = [
    "CascadePredictor",
    "CascadeUNet",
    "RoiRule",
    "__version__",
    "choose_postprocessing",
    "convert",
    "doctor",
    "evaluate",
    "find_roi",
    "install_model",
    "list_cases",
    "make_phantoms",
    "make_phantoms_from_maps",
    "predict",
    "read_evaluation",
    "register",
    "register_files",
    "report",
    "rtstruct",
    "score_organ",
    "view",
    "write_hooks",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
