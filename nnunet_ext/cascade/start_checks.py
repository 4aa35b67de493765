"""Whether a data set and its plan fit the model that a training starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nnunet_ext.cascade.start_model import START_KEY, StartModel
from nnunet_ext.cascade.start_weights import channels_of
from nnunet_ext.labels.pairs import PAIRS_KEY
from nnunet_ext.labels.sides import organ_word, side_of

#: Entries of a configuration by which images come to the network, some with a value per channel.
PER_CHANNEL = ("normalization_schemes", "use_mask_for_norm")
#: `arch_kwargs` that do not make other layers. Label values differ from data set to data set.
FREE = ("left_right_pairs", "dropout_op", "dropout_op_kwargs")
INTENSITIES = "foreground_intensity_properties_per_channel"


def check_names(model: StartModel, dataset_json: Mapping, pairs: Sequence[tuple[str, str]], *, where: str) -> None:
    """Refuse a data set whose channels or organs the model does not know, or knows by other names.

    Args:
        model: That a training starts from.
        dataset_json: Of the data set.
        pairs: Its left and right names.
        where: File of the data set, for messages.

    Raises:
        ValueError: Naming channels or organs, and what to do.
    """
    channels, theirs = channels_of(dataset_json), channels_of(model.dataset_json)
    if unknown := [name for name in channels if name not in theirs]:
        known = " ".join(name for name in channels if name in theirs) or "..."
        raise ValueError(
            f"{where}: the model {model.title} has no channel {', '.join(unknown)}; it has {', '.join(theirs)}. Leave the "
            f"channel out (nnunet_ext convert --modalities {known}), write its name as the model does, or train from "
            "scratch with -pl CascadeOARPlanner"
        )
    organs, known_organs = _organs(dataset_json), _organs(model.dataset_json)
    new = [name for name in organs if name not in known_organs]
    others = [other for other in known_organs if other not in organs]
    if spelt := [(name, other) for name in new for other in others if _same_organ(name, other)]:
        renamed = "; ".join(f"'{name}' is '{other}' there" for name, other in spelt)
        raise ValueError(
            f"{where}: the model {model.title} has other names for organs of this data set: {renamed}. Organs are matched "
            f"by name, so these would be learned from nothing. Write the model's names into labels, and into {PAIRS_KEY} "
            "if it is there. The values stay"
        )
    if len(new) == len(organs):
        raise ValueError(
            f"{where}: the model {model.title} has none of the organs {', '.join(organs)}; it has "
            f"{', '.join(known_organs)}. Write the model's names into labels if they are the same organs, or train from "
            "scratch with -pl CascadeOARPlanner"
        )
    for left, right in model.pairs:
        if (right, left) in pairs:
            raise ValueError(
                f"{where}: '{right}' is the left and '{left}' the right organ by {PAIRS_KEY}, and the other way round in "
                f'the model {model.title}. Write ["{left}", "{right}"] if the label maps are as those of the model, or '
                "exchange the two names in labels"
            )
        if model.is_factorised and {left, right} <= set(organs) and (left, right) not in pairs:
            raise ValueError(
                f"{where}: '{left}' and '{right}' are no pair by {PAIRS_KEY}, and the model {model.title} tells them apart "
                f'by their side. Write ["{left}", "{right}"] into {PAIRS_KEY}'
            )


def check_plan(model: StartModel, plans: Mapping, entry: Mapping, dataset_json: Mapping, *, configuration: str) -> None:
    """Refuse a configuration whose images or network are not the model's.

    Args:
        model: That the training starts from.
        plans: Of the data set.
        entry: The configuration, with all that it inherits.
        dataset_json: Of the data set.
        configuration: Its name.

    Raises:
        ValueError: Naming the entry, both values and what to do.
    """
    for key, ours, theirs in _settings(model, plans, entry, dataset_json):
        if ours != theirs:
            raise ValueError(
                f"plans '{plans['plans_name']}', configuration '{configuration}': {key} is {ours}, and {theirs} in the "
                f"model {model.title}, from which the training starts. A network knows images of one kind. Plan and "
                f"preprocess again with nnunet_ext finetune, or take {START_KEY} out of the plan to train from scratch"
            )


def _settings(
    model: StartModel, plans: Mapping, entry: Mapping, dataset_json: Mapping
) -> Iterator[tuple[str, object, object]]:
    """Name and both values of each setting that must be the model's."""
    places = model.channel_places(dataset_json)
    yield "transpose_forward", list(plans["transpose_forward"]), list(model.plans["transpose_forward"])
    yield "spacing", list(entry["spacing"]), list(model.entry["spacing"])
    for key in PER_CHANNEL:
        yield key, list(entry[key]), [model.entry[key][at] for at in places]
    for channel, at in enumerate(places):
        yield f"{INTENSITIES}.{channel}", plans[INTENSITIES][str(channel)], model.plans[INTENSITIES][str(at)]
    ours, theirs = (one["architecture"] for one in (entry, model.entry))
    yield "network_class_name", ours["network_class_name"], theirs["network_class_name"]
    for key in sorted({*ours["arch_kwargs"], *theirs["arch_kwargs"]} - set(FREE)):
        yield f"arch_kwargs.{key}", ours["arch_kwargs"].get(key), theirs["arch_kwargs"].get(key)


def _organs(dataset_json: Mapping) -> list[str]:
    return [name for name, value in dataset_json["labels"].items() if value != 0]


def _same_organ(one: str, other: str) -> bool:
    """Whether two names mean the same organ of the same side."""
    sides = [side and side.side for side in (side_of(one), side_of(other))]
    return sides[0] == sides[1] and organ_word(one) == organ_word(other)
