"""The starter's plan: that of the small planner, with any subset of the channels and no more features than a wheel holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_ext.end_to_end.learning.edits import Edit, factorised_sides, features, learning_rate, recipe, resolved
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER

PLANS = "CascadeOARPlansStarter"
#: Features of the first stage of each network, and of any stage at most. Multiples of 16 suit the processor.
FEATURES, MOST_FEATURES = 16, 96
LEARNING_RATE = 4e-3
#: Of both stages. Small, so that a leg has many iterations.
BATCH_SIZE = 2
#: Share of a leg at the full learning rate.
CONSTANT_SHARE = 0.5
ITERATIONS_PER_EPOCH, VALIDATION_ITERATIONS = 25, 2
#: Each channel is missing in half of the samples, so that subsets are about equally frequent.
DROPOUT = recipe(modality_dropout=0.5, dropout_spares="any", box_jitter="planned")


def starter_plans(plans: Mapping, pairs: Sequence[Sequence[int]]) -> dict:
    """The starter's plans from the planner's.

    Args:
        plans: Of `CascadeOARPlannerSmall`.
        pairs: Label values of left and right organs.
    """
    configurations = {name: resolved(plans, name) for name in (LOCALIZER, SEGMENTER)}
    edits: dict[str, list[Edit]] = {
        LOCALIZER: [DROPOUT, features(FEATURES, MOST_FEATURES), learning_rate(LEARNING_RATE)],
        SEGMENTER: [
            DROPOUT,
            features(FEATURES, MOST_FEATURES),
            learning_rate(LEARNING_RATE),
            factorised_sides(pairs),
        ],
    }
    for name, some in edits.items():
        for edit in some:
            edit(configurations[name])
        configurations[name]["batch_size"] = BATCH_SIZE
        configurations[name]["training"] |= {
            "iterations_per_epoch": ITERATIONS_PER_EPOCH,
            "val_iterations_per_epoch": VALIDATION_ITERATIONS,
            "patience_epochs": None,
            "constant_share": CONSTANT_SHARE,
        }
    return {**plans, "plans_name": PLANS, "configurations": configurations}
