"""The weights of a trained network for another one, whose channels and organs are matched by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures

from nnunet_ext.cascade.side_logits import SideLogits
from nnunet_ext.training.checkpoints import different_weights

#: Last layers, one per resolution with deep supervision. The decoder makes all of them either way.
LAST_LAYERS = re.compile(r"(?:^|\.)seg_layers\.\d+\.(?:weight|bias)$")
#: Names of the two maps of the side, behind those of the organs (`SideLogits`). No label has them.
SIDES = ("left side", "right side")


@dataclass(frozen=True)
class NetworkNames:
    """What a network sees and predicts, by name.

    Attributes:
        inputs: Of its channels in order. Those of a guided segmenter's organs follow the images.
        maps: Of each map of its last layers, the organs that share it.
    """

    inputs: tuple[str, ...]
    maps: tuple[tuple[str, ...], ...]

    @classmethod
    def of(
        cls,
        dataset_json: Mapping,
        *,
        left_right_pairs: Sequence[Sequence[int]] = (),
        guided: bool = False,
    ) -> NetworkNames:
        """The names of a network.

        Args:
            dataset_json: Of the data set, with `channel_names` and `labels`.
            left_right_pairs: Of the plan's `arch_kwargs`.
            guided: Whether the localizer's label map follows the images, a channel per organ.
        """
        labels = sorted(dataset_json["labels"], key=dataset_json["labels"].__getitem__)
        maps: list[tuple[str, ...]] = [(name,) for name in labels]
        if left_right_pairs:
            sides = SideLogits(len(labels), left_right_pairs)
            shared: list[list[str]] = [[] for _ in range(sides.n_maps - len(SIDES))]
            for name, at in zip(labels, sides.organ, strict=True):
                shared[at].append(name)
            maps = [*map(tuple, shared), *((side,) for side in SIDES)]
        inputs = channels_of(dataset_json)
        return cls((*inputs, *(f"map of {name}" for name in labels[1:] if guided)), tuple(maps))


def channels_of(dataset_json: Mapping) -> tuple[str, ...]:
    """Names of the image channels of a `dataset.json`, in order."""
    names = dataset_json["channel_names"]
    return tuple(names[number] for number in sorted(names, key=int))


@dataclass(frozen=True)
class StartWeights:
    """Weights for a network, and where they come from.

    Attributes:
        weights: For `load_state_dict`.
        lines: Sentences on channels and organs that were taken, left, and begin at random.
    """

    weights: dict[str, torch.Tensor]
    lines: list[str]


def start_weights(
    network: AbstractDynamicNetworkArchitectures,
    weights: Mapping[str, torch.Tensor],
    *,
    ours: NetworkNames,
    theirs: NetworkNames,
) -> StartWeights:
    """Weights of a trained network for another one of the same layers.

    The first layer takes the columns of its channels, the last layers take the rows of their organs. Organs that the
    trained network does not have keep their random rows. Everything else is taken as it is.

    Args:
        network: That is to begin. Its values are random. They are not changed.
        weights: Of the trained network. Values of 16 bits are taken too.
        ours: Names of `network`.
        theirs: Names of the trained network. It has all channels of ours.

    Raises:
        ValueError: If the weights are of another network, or one is not a finite number.
    """
    state = network.state_dict()
    first = network.get_submodule(network.keys_to_in_proj[0]).weight.data_ptr()
    first_layer = {name for name, value in state.items() if value.data_ptr() == first}
    last_layers = {name for name in state if LAST_LAYERS.search(name)}
    expected = {}
    for name, own in state.items():
        shape = list(own.shape)
        if name in first_layer:
            shape[1] = len(theirs.inputs)
        elif name in last_layers:
            shape[0] = len(theirs.maps)
        expected[name] = torch.empty(shape, device="meta")
    if difference := different_weights(expected, weights):
        raise ValueError(f"they are the weights of another network: {difference}")
    if odd := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(f"'{odd[0]}' holds values that are no finite numbers")
    columns = [_place(name, [(one,) for one in theirs.inputs]) for name in ours.inputs]
    rows = [
        next((at for organ in organs if (at := _place(organ, theirs.maps)) is not None), None) for organs in ours.maps
    ]
    made = {}
    for name, own in state.items():
        value = weights[name].to(own.dtype)
        if name in first_layer:
            own = own.clone()
            for at, source in enumerate(columns):
                if source is not None:
                    own[:, at] = value[:, source].to(own.device)
            made[name] = own
        elif name in last_layers:
            own = own.clone()
            for at, source in enumerate(rows):
                if source is not None:
                    own[at] = value[source].to(own.device)
            made[name] = own
        else:
            made[name] = value
    return StartWeights(made, _lines(ours, theirs))


def _place(name: str, groups: Sequence[Sequence[str]]) -> int | None:
    """Which of several groups of names holds a name."""
    return next((at for at, group in enumerate(groups) if name in group), None)


def _lines(ours: NetworkNames, theirs: NetworkNames) -> list[str]:
    """What was taken and left, for the log."""
    lines = []
    for what, wanted, there in (("Inputs", ours.inputs, theirs.inputs), ("Organs", _organs(ours), _organs(theirs))):
        lines.append(f"{what} taken from the model by name: {_listed([name for name in wanted if name in there])}.")
        if left := [name for name in there if name not in wanted]:
            lines.append(f"{what} of the model that the data set does not have, left out: {_listed(left)}.")
        if new := [name for name in wanted if name not in there]:
            lines.append(f"{what} that the model does not have, begun with random weights: {_listed(new)}.")
    return lines


def _organs(names: NetworkNames) -> list[str]:
    """All organs. The first map is the background."""
    return [name for group in names.maps[1:] for name in group if name not in SIDES]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
