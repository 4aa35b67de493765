"""The network that our trainers train, built from a plan. Predictions need no trainer for it."""

from __future__ import annotations

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunet_ext.cascade.networks import keep_channels, never_predict
from nnunet_ext.cascade.organ_crops import crop_size_of
from nnunet_ext.cascade.roi import left_out_labels
from nnunet_ext.training.recipe import TrainingRecipe

#: Trainers whose networks `build_network` builds.
OUR_TRAINERS = ("CascadeOARTrainer", "CascadeOARTrainerReference")


def build_network(
    configuration_manager: ConfigurationManager,
    num_input_channels: int,
    num_output_channels: int,
    *,
    deep_supervision: bool,
) -> nn.Module:
    """The plan's network. Without guidance a segmenter ignores the channels that nnU-Net adds for a previous stage.

    Only the network of crops, one per organ, looks there for the places of its crops.

    Args:
        configuration_manager: Of the configuration.
        num_input_channels: As nnU-Net counts them, with one per organ of a previous stage.
        num_output_channels: Labels.
        deep_supervision: Whether it gives logits at several resolutions.
    """
    guided = TrainingRecipe.from_plan(configuration_manager.configuration.get("recipe")).guidance
    drop = configuration_manager.previous_stage_name is not None and not guided
    n_image_channels = num_input_channels - (num_output_channels - 1) * drop
    network = get_network_from_plans(
        configuration_manager.network_arch_class_name,
        configuration_manager.network_arch_init_kwargs,
        configuration_manager.network_arch_init_kwargs_req_import,
        n_image_channels,
        num_output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
    if drop and crop_size_of(configuration_manager) is None:  # one crop per organ: the label map places them
        network.register_forward_pre_hook(keep_channels(n_image_channels))
    if left_out := left_out_labels(configuration_manager.configuration):
        network.register_forward_hook(never_predict(left_out))
    return network
