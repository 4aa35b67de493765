"""Weights and plans of models from elsewhere. `prediction/test_loading.py` has those that hold code."""

from __future__ import annotations

import re
from importlib.metadata import requires

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from packaging.requirements import Requirement

from nnunet_ext.training.foreign_models import MIN_TORCH, check_architecture, check_torch, read_weights


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no init_args, network_weights, trainer_name"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("installed", ["2.1.2", "2.5.1+cu124", "1.13.1"])
def test_a_torch_that_is_too_old_is_named_with_the_one_that_is_needed(installed):
    with pytest.raises(ImportError, match=rf"^torch {re.escape(installed)} is installed, and 2\.6 or newer is needed"):
        check_torch(installed)


@pytest.mark.parametrize("installed", ["2.6.0", "2.6.0a0+nv", "2.13.0+cpu", "3.0"])
def test_newer_ones_are_taken(installed):
    check_torch(installed)


def test_the_oldest_torch_is_that_of_the_packages_metadata():
    (needed,) = (r for r in map(Requirement, requires("nnunet_ext")) if r.name == "torch" and r.marker is None)
    oldest = ".".join(map(str, MIN_TORCH))
    assert str(needed.specifier) == f"!=2.9.*,>={oldest}"


@pytest.mark.parametrize("name", ["os.system", "torch.nn.modules.module.warnings.warn", "nnunet_ext.cli.main.main",
                                  "torch.nn.Nothing", 7])  # fmt: skip
@pytest.mark.parametrize("where", ["network_class_name", "nonlin", "conv_op"])
def test_a_plan_can_name_networks_and_layers_only(cascade_plans, name, where):
    plans = cascade_plans(channels=("CT",))
    architecture = plans["configurations"]["3d_lowres"]["architecture"]
    (architecture if where == "network_class_name" else architecture["arch_kwargs"])[where] = name
    with pytest.raises(ValueError, match=rf"names {name!r} as {where}; only classes of "):
        check_architecture(PlansManager(plans).get_configuration("3d_lowres"))
