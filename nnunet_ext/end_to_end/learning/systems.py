"""The systems that can be compared. A new one is an entry of `SYSTEMS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nnunet_ext.end_to_end.learning.edits import (
    Edit,
    entries,
    factorised_sides,
    features,
    learning_rate,
    network,
    patch,
    recipe,
    unchanged,
)
from nnunet_ext.nnunet_folders import ANATOMYNET, DEEPLAB, FOCUSNET, LOCALIZER, SEGMENTER, WHOLE_VOLUME

#: Share of a mark's minutes that the localizer of a cascade is trained for. The segmenter has the rest.
LOCALIZER_SHARE = 0.2
#: Share of a mark after which a branch leaves the trunk. The learning rate falls over the rest.
CONSTANT_SHARE = 0.8
#: An iteration of stock nnU-Net with small patches costs at most so many of ours.
MOST_TIMES_OURS = 3.0
#: Factor of a finer grid.
FINER = 1.25

Kind = Literal["cascade", "whole volume", "localizer", "stock", "stock's plan", "stock's recipe"]


@dataclass(frozen=True)
class System:
    """One system of the comparison.

    Attributes:
        edit: Of its configuration in the plan.
        kind: `cascade`, our `whole volume`, `stock` nnU-Net, our trainer on `stock's plan`, or `stock's recipe` on our
            whole volume. `localizer` is a cascade's first stage and no system of its own.
        merged: Left and right organs are one label, and are told apart after the prediction.
        factorised: The network has one logit per organ and two for the side.
        decays: The learning rate decays polynomially from the start, so each mark is a training of its own.
        small_patches: Stock's plan is made for so little memory that an iteration costs at most `MOST_TIMES_OURS`.
        mirrors: Stock mirrors along the left-right axis too, as it does by default.
        finer: The segmenter's grid is finer by `FINER` along each axis.
        reference: The trainer is the reference study's.
        network: Configuration of another group's network, which sees the whole volume and is trained as its paper says.
        guided: The network sees the localizer's out-of-fold label maps, so all folds of that are trained.
            Its mark holds the time of one of them, as those of the others do.
        all_folds: Of a localizer. Fold 0 alone without.
        learned_resampling: It needs the data's learned resampling, whose training is not part of a mark.
    """

    edit: Edit = unchanged
    kind: Kind = "cascade"
    merged: bool = False
    factorised: bool = False
    decays: bool = False
    small_patches: bool = False
    mirrors: bool = False
    finer: bool = False
    reference: bool = False
    network: str | None = None
    guided: bool = False
    all_folds: bool = False
    learned_resampling: bool = False

    @property
    def configuration(self) -> str:
        return self.network or {"cascade": SEGMENTER, "localizer": LOCALIZER}.get(self.kind, WHOLE_VOLUME)

    @property
    def share(self) -> float:
        """Share of a mark's minutes that this training has."""
        return {"cascade": 1 - LOCALIZER_SHARE, "localizer": LOCALIZER_SHARE}.get(self.kind, 1.0)

    @property
    def has_trunk(self) -> bool:
        """Whether a mark is a branch of a trunk that all marks share."""
        return not self.stock_trainer and not self.decays and self.network is None

    @property
    def stock_plan(self) -> bool:
        """Whether data and plan are stock nnU-Net's."""
        return self.kind in ("stock", "stock's plan")

    @property
    def stock_trainer(self) -> bool:
        """Whether stock nnU-Net trains it."""
        return self.kind in ("stock", "stock's recipe")

    @property
    def stock_prediction(self) -> bool:
        """Whether stock nnU-Net contours the test cases."""
        return self.stock_plan or self.stock_trainer

    @property
    def localizer(self) -> str | None:
        """Name of the localizer in `LOCALIZERS`, None without one."""
        if self.kind != "cascade":
            return None
        return GUIDING_LOCALIZER if self.guided else MERGED_LOCALIZER if self.merged else DEFAULT_LOCALIZER

    def configure(self, configuration: dict, pairs: Sequence[Sequence[int]]) -> None:
        """Edit a configuration. `pairs` are its left and right label values."""
        self.edit(configuration)
        if self.factorised:
            factorised_sides(pairs)(configuration)


#: The one that all costs are compared with.
DEFAULT = "default"
#: One thing changed each. The default has AdamW at the planner's rate, foreground weight 5, patches of two thirds, deep
#: supervision, residual blocks, mirroring with exchange, measured jitter, nnU-Net's simulation of low resolution, the
#: planner's features and batch Dice. A system whose rate or batch size is the planner's own repeats the default. Its
#: localizer is that of the default, unless sides are merged or it guides.
SYSTEMS: dict[str, System] = {
    DEFAULT: System(),
    "merged sides": System(merged=True),
    "factorised sides": System(factorised=True),
    "SGD 1e-2, polynomial": System(learning_rate(0.01, optimizer="sgd"), decays=True),
    "SGD 3e-2, polynomial": System(learning_rate(0.03, optimizer="sgd"), decays=True),
    "SGD 1e-1, polynomial": System(learning_rate(0.1, optimizer="sgd"), decays=True),
    "AdamW, polynomial": System(decays=True),
    "AdamW 1e-3": System(learning_rate(0.001)),
    "AdamW 3e-3": System(learning_rate(0.003)),
    "AdamW 6e-3": System(learning_rate(0.006)),
    "AdamW 1.2e-2": System(learning_rate(0.012)),
    "AdamW 2.4e-2": System(learning_rate(0.024)),
    "Adam": System(recipe(optimizer="adam")),
    "Dice alone": System(recipe(loss="dice")),
    "foreground weight 1": System(recipe(foreground_weight=1.0)),
    "foreground weight 25": System(recipe(foreground_weight=25.0)),
    "batch size 4": System(entries(batch_size=4)),
    "batch size 16": System(entries(batch_size=16)),
    "half patches": System(patch(0.5, 8)),
    "ROI in one patch": System(patch(1.0, 2)),
    "ROI in one patch, batch size 1": System(patch(1.0, 1)),
    "ROI in one patch, batch size 4": System(patch(1.0, 4)),
    "organ patches 1.0": System(recipe(organ_patches=1.0)),
    "finer grid": System(finer=True),
    "no deep supervision": System(entries(deep_supervision=False)),
    "plain blocks": System(network(residual_blocks=False)),
    "max pooling": System(network(downsampling="max_pooling")),
    "no left-right mirroring": System(recipe(mirror_left_right=False)),
    "no jitter": System(recipe(box_jitter="off")),
    "jitter as planned": System(recipe(box_jitter="planned")),
    "guidance": System(recipe(guidance=True), guided=True),
    "modality dropout 0.3": System(recipe(modality_dropout=0.3)),
    "no low resolution": System(recipe(low_resolution="off")),
    "learned resampling": System(recipe(low_resolution="learned"), learned_resampling=True),
    "learned resampling and low resolution": System(recipe(low_resolution="both"), learned_resampling=True),
    "16 features": System(features(16)),
    "Dice per sample": System(entries(batch_dice=False)),
    "focal": System(recipe(loss="dice_focal")),
    "recall of skeletons": System(recipe(skeleton_recall=1.0)),
    "average of the weights": System(recipe(weights_average=0.999)),
    "reference recipe": System(entries(batch_size=1), reference=True),
    "whole volume": System(kind="whole volume"),
    "AnatomyNet": System(kind="whole volume", network=ANATOMYNET),
    "FocusNet": System(kind="whole volume", network=FOCUSNET),
    "DeepLabv3+": System(kind="whole volume", network=DEEPLAB),
    "stock": System(kind="stock"),
    "stock, small patches": System(kind="stock", small_patches=True),
    "stock, small patches, mirrored": System(kind="stock", small_patches=True, mirrors=True),
    "stock's plan, our recipe": System(kind="stock's plan", small_patches=True),
    "stock recipe, our 3d_fullres": System(kind="stock's recipe"),
}
DEFAULT_LOCALIZER, MERGED_LOCALIZER = "localizer", "localizer, merged sides"
GUIDING_LOCALIZER = "localizer, all folds"
#: First stages, which all systems of the same labels share.
LOCALIZERS: dict[str, System] = {
    DEFAULT_LOCALIZER: System(kind="localizer"),
    MERGED_LOCALIZER: System(kind="localizer", merged=True),
    GUIDING_LOCALIZER: System(kind="localizer", all_folds=True),
}


def system_of(name: str) -> System:
    """A system, or a localizer.

    Raises:
        ValueError: If there is none of that name.
    """
    known: Mapping[str, System] = {**SYSTEMS, **LOCALIZERS}
    if name not in known:
        raise ValueError(f"there is no system {name!r}; known: {', '.join(SYSTEMS)}")
    return known[name]


def slug(name: str) -> str:
    """A name fit for files and plans."""
    words = "".join(c if c.isalnum() else " " for c in name.replace("'s", "s")).split()
    return "_".join(words)
