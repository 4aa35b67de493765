"""The systems of the reference study, and ours beside them, as a user names them."""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, STUDY_LOCALIZER

#: Trainers: with the study's recipe, and with ours.
STUDY_TRAINER, OUR_TRAINER = "CascadeOARTrainerReference", "CascadeOARTrainer"


@dataclass(frozen=True)
class System:
    """A configuration that is trained, predicted with and scored.

    Attributes:
        name: In the report.
        configuration: Of the plan.
        localizer: Configuration of the stage before it, None if it has none.
        trainer: None is the study's.
    """

    name: str
    configuration: str
    localizer: str | None = None
    trainer: str | None = None


#: In the order of the report. The others are tested against the first.
SYSTEMS = (
    System("whole", "3d_fullres_80x256x256"),
    System("localizer", STUDY_LOCALIZER),
    System("32x128x128", "3d_organ_crops_32x128x128", STUDY_LOCALIZER),
    System("32x96x96", "3d_organ_crops_32x96x96", STUDY_LOCALIZER),
    System("16x64x64", "3d_organ_crops_16x64x64", STUDY_LOCALIZER),
    System("coarse-localizer", LOCALIZER),
    System("sliding-32x128x128", "3d_cascade_32x128x128", LOCALIZER),
    System("sliding-32x96x96", "3d_cascade_32x96x96", LOCALIZER),
    System("sliding-16x64x64", "3d_cascade_16x64x64", LOCALIZER),
    System("ours", SEGMENTER, LOCALIZER, trainer=OUR_TRAINER),
)
#: The study's own: its localizer, and one crop around each organ.
OF_THE_STUDY = ("whole", "localizer", "32x128x128", "32x96x96", "16x64x64")
#: The same sizes as patches that slide over the ROI, placed by the coarse localizer. They learn in minutes.
SLIDING = ("whole", "coarse-localizer", "sliding-32x128x128", "sliding-32x96x96", "sliding-16x64x64")
#: System whose images are compared (Table 3.7), of the study's own and of the sliding ones.
OF_CHANNELS, SLIDING_OF_CHANNELS = "32x96x96", "sliding-32x96x96"


def system_of(name: str) -> System:
    """The system of a name.

    Raises:
        ValueError: If there is none.
    """
    for system in SYSTEMS:
        if system.name == name:
            return system
    raise ValueError(f"there is no system {name!r}; there are {', '.join(system.name for system in SYSTEMS)}")
