"""Files of version 0.1.0 name modules of ours. They must go on loading after the modules have moved."""

import base64
import pickle
from importlib import import_module

import pytest
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

import nnunet_ext
from nnunet_ext.cascade.preprocessor import PROPERTIES_KEY, stored_extents
from nnunet_ext.cascade.roi import OrganExtent

#: Pickle of `{"organ_extents": {1: nnunet_ext.roi.OrganExtent(...)}}`, as in the file of a preprocessed case.
PREPROCESSED = base64.b64decode(
    "gASV0gAAAAAAAAB9lIwNb3JnYW5fZXh0ZW50c5R9lEsBjA5ubnVuZXRfZXh0LnJvaZSMC09yZ2FuRXh0ZW50lJOUKYGUfZQojAtjZW50cm9pZF9t"
    "bZRHQCQAAAAAAABHQDSAAAAAAABHQD5AAAAAAACHlIwIbG93ZXJfbW2UR0AgAAAAAAAAR0AyAAAAAAAAR0A8AAAAAAAAh5SMCHVwcGVyX21tlEdA"
    "KAAAAAAAAEdANwAAAAAAAEdAQEAAAAAAAIeUjAl2b2x1bWVfbWyURz/oAAAAAAAAdWJzcy4="
)
#: `architecture` of a configuration in a plans.json.
ARCHITECTURE = {
    "network_class_name": "nnunet_ext.networks.CascadeUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_blocks_per_stage": [1, 1],
        "residual_blocks": True,
        "downsampling": "strided_convolution",
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
#: What the lookup modules of 0.1.0 name, copies of which lie in editable installs of nnU-Net.
LOOKUPS = {
    "CascadeOARPlanner": "nnunet_ext.plans.cascade_oar_planner",
    "CascadeOARPlannerSmall": "nnunet_ext.plans.cascade_oar_planner",
    "CascadeOARPreprocessor": "nnunet_ext.preprocessor",
    "CascadeOARTrainer": "nnunet_ext.trainers.cascade_oar_trainer",
    "CascadeOARTrainerReference": "nnunet_ext.trainers.cascade_oar_trainer",
    "resample_image": "nnunet_ext.resampling",
    "resample_label_map": "nnunet_ext.resampling",
}


def test_a_preprocessed_case_with_pickled_extents_is_read():
    extents = stored_extents({PROPERTIES_KEY: pickle.loads(PREPROCESSED)})
    assert extents == {1: OrganExtent((10.0, 20.5, 30.25), (8.0, 18.0, 28.0), (12.0, 23.0, 32.5), 0.75)}


@pytest.mark.parametrize("name", ["nnunet_ext.networks.CascadeUNet", "nnunet_ext.CascadeUNet"])
def test_the_network_of_a_plans_file_is_built(name):
    settings = ARCHITECTURE["arch_kwargs"], ARCHITECTURE["_kw_requires_import"]
    network = get_network_from_plans(name, *settings, 3, 8, allow_init=False, deep_supervision=True)
    assert type(network) is nnunet_ext.CascadeUNet


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_copied_lookup_module_finds_its_class(name):
    assert getattr(import_module(LOOKUPS[name]), name).__name__ == name
