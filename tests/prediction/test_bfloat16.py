"""Networks that a processor computes wrongly in bfloat16 are found by shape, then by computing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from nnunet_ext.prediction import bfloat16
from nnunet_ext.prediction.bfloat16 import ERROR_LIMIT, bfloat16_errors, in_doubt, relative_error, wrong_in_bfloat16
from nnunet_ext.trainers.cascade_oar_trainer import CascadeOARTrainer

DATASET = {"channel_names": {"0": "CT", "1": "T1"}, "labels": {"background": 0, "Eye_L": 1}, "file_ending": ".nii.gz"}
ROI = {"size_mm": [16.0] * 3, "offset_mm": {"1": [0.0] * 3}, "spread_mm": {"1": 1.0}, "jitter_mm": 0.0}


class WrongInBfloat16(nn.Conv3d):
    """A convolution that is off by more than its own size in bfloat16, as torch's is on a processor with AMX."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = super().forward(x)
        return -output if torch.is_autocast_enabled("cpu") else output


class WithSkip(nn.Module):
    """One strided convolution, past which a shortcut of a thousand times its size leads."""

    def __init__(self, layer: nn.Conv3d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1000 * x.mean() + self.layer(x)


class LooksAtValues(WithSkip):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * (1 if x.max().item() > 0 else 2)


def conv(kind: type[nn.Conv3d] = nn.Conv3d, *, size=(3, 3, 3), stride=(2, 2, 2)) -> nn.Conv3d:
    return kind(2, 3, size, stride, padding=[n // 2 for n in size])


def stage(network: nn.Module, patch_size: tuple[int, ...], cascade_plans) -> SimpleNamespace:
    plans = PlansManager(cascade_plans(roi=ROI, channels=("CT", "T1")))
    configuration = plans.get_configuration("3d_lowres")
    configuration.configuration["patch_size"] = list(patch_size)
    return SimpleNamespace(
        network=network,
        list_of_parameters=[network.state_dict()],
        plans_manager=plans,
        configuration_manager=configuration,
        dataset_json=DATASET,
    )


def trained(configuration: str, cascade_plans) -> nn.Module:
    plans = PlansManager(cascade_plans(roi=ROI, channels=("CT", "T1")))
    network = CascadeOARTrainer.build_network_architecture(plans, plans.get_configuration(configuration), 2, 2, False)
    return network.eval()


@pytest.mark.parametrize(
    ("shape", "size", "stride", "doubtful"),
    [
        ((6, 8, 4), (3, 3, 3), (2, 2, 2), False),  # output 3, 4, 2
        ((6, 8, 2), (3, 3, 3), (2, 2, 2), True),  # 3, 4, 1
        ((6, 8, 1), (3, 3, 3), (2, 2, 2), True),
        ((2, 8, 6), (3, 3, 3), (2, 2, 2), True),  # 1, 4, 3: the last axis in another plan
        ((6, 2, 8), (3, 3, 3), (1, 2, 2), True),  # 6, 1, 4
        ((1, 8, 6), (1, 3, 3), (1, 2, 2), False),  # no step along the axis of length 1
        ((6, 8, 9), (1, 1, 1), (1, 1, 2), True),  # voxels between two steps are skipped
        ((6, 8, 1), (3, 3, 3), (1, 1, 1), False),
        ((6, 8, 3), (3, 3, 5), (2, 2, 3), True),  # 3, 4, 1
    ],
)
def test_strided_convolutions_with_an_output_of_length_1_are_in_doubt(shape, size, stride, doubtful):
    network = nn.Sequential(conv(size=size, stride=stride))
    assert in_doubt(network, (1, 2, *shape)) == (["0"] if doubtful else [])


def test_the_shapes_of_a_unet_are_followed_down_to_its_last_stage(cascade_plans):
    network = trained("3d_cascade_fullres", cascade_plans)  # two steps of two along every axis
    assert in_doubt(network, (1, 2, 16, 24, 8)) == []
    (name,) = in_doubt(network, (1, 2, 16, 24, 4))
    assert name.startswith("encoder.stages.2.")


def test_a_network_that_pools_has_no_strided_convolution(cascade_plans):
    network = trained("3d_lowres", cascade_plans)
    assert in_doubt(network, (1, 2, 8, 8, 4)) == []


def test_a_network_that_is_proven_right_is_not_computed(cascade_plans, monkeypatch):
    monkeypatch.setattr(bfloat16, "bfloat16_errors", lambda *_: pytest.fail("computed"))
    network = WithSkip(conv(WrongInBfloat16))
    assert wrong_in_bfloat16(stage(network, (4, 6, 8), cascade_plans)) is None


def test_a_layer_that_is_wrong_in_bfloat16_is_named_even_beside_a_large_shortcut(cascade_plans):
    network = WithSkip(conv(WrongInBfloat16))
    assert wrong_in_bfloat16(stage(network, (4, 6, 2), cascade_plans)) == "layer"
    network = WithSkip(conv())
    assert wrong_in_bfloat16(stage(network, (2, 4, 6), cascade_plans)) is None


def test_a_network_that_looks_at_values_is_computed(cascade_plans):
    assert wrong_in_bfloat16(stage(LooksAtValues(conv(WrongInBfloat16)), (4, 6, 8), cascade_plans)) == "layer"
    assert wrong_in_bfloat16(stage(LooksAtValues(conv()), (4, 6, 8), cascade_plans)) is None


def test_the_rounding_of_a_sound_network_is_far_below_the_limit(cascade_plans):
    network = trained("3d_cascade_fullres", cascade_plans)
    errors = bfloat16_errors(network, (1, 2, 16, 24, 8))
    convolutions = {n for n, layer in network.named_modules() if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d))}
    assert set(errors) == convolutions - {"decoder.seg_layers.0"}  # for deep supervision only
    assert min(errors.values()) > 1e-4
    assert max(errors.values()) < ERROR_LIMIT / 10
    assert not any(layer._forward_hooks for layer in network.modules() if isinstance(layer, nn.Conv3d))


@pytest.mark.parametrize("patch_size", [(16, 24, 8), (16, 24, 4)])  # proven by shape, and computed
def test_a_network_that_was_looked_at_predicts_as_before(cascade_plans, patch_size):
    network = trained("3d_cascade_fullres", cascade_plans)
    patch = torch.randn(1, 2, 16, 24, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = network(patch)
    made = stage(network, patch_size, cascade_plans)
    assert wrong_in_bfloat16(made) is None
    network.load_state_dict(made.list_of_parameters[0])  # nnU-Net's next step
    with torch.no_grad():
        assert torch.equal(network(patch), expected)
    assert all(isinstance(value, nn.Parameter) and value.device.type == "cpu" for value in network.parameters())


def test_the_values_are_those_of_the_first_fold(cascade_plans):
    network = WithSkip(conv(WrongInBfloat16))
    made = stage(network, (4, 6, 2), cascade_plans)
    made.list_of_parameters = [{name: torch.zeros_like(value) for name, value in network.state_dict().items()}]
    assert wrong_in_bfloat16(made) is None  # zero is zero in any format


def test_the_convolution_of_torchs_issue_is_refused_where_this_processor_computes_it_wrongly(cascade_plans):
    layer = nn.Conv3d(2, 64, 3, 2, padding=1)
    patch = torch.randn(1, 2, 6, 6, 2, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        exact = layer(patch)
        with torch.autocast("cpu", torch.bfloat16):
            wrong = relative_error(layer(patch), exact) > ERROR_LIMIT
    found = wrong_in_bfloat16(stage(nn.Sequential(layer), (6, 6, 2), cascade_plans))
    assert found == ("0" if wrong else None)


def test_the_error_is_relative_and_infinite_for_values_that_are_not_finite():
    exact = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)  # 0.5 of 5
    assert relative_error(exact, exact) == 0
    assert relative_error(torch.tensor([3.0, float("nan")]), exact) == np.inf
    assert relative_error(torch.tensor([0.0, 1e-3]), torch.zeros(2)) > 1
