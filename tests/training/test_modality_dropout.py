import torch

from nnunet_ext.training.modality_dropout import ModalityDropoutTransform, optional_channels


def test_every_channel_but_the_ct_may_be_missing_or_but_the_first_without_a_ct():
    assert optional_channels(["CT", "T1", "T2"]) == (1, 2)
    assert optional_channels(["T1", "CT"]) == (0,)
    assert optional_channels(["T1", "T2"]) == (1,)
    assert optional_channels(["CT"]) == ()


def test_every_channel_may_be_missing_if_none_is_spared():
    assert optional_channels(["CT", "T1", "T2"], spares="any") == (0, 1, 2)
    assert optional_channels(["CT"], spares="any") == (0,)


def test_one_channel_at_random_stays_where_all_would_go():
    torch.manual_seed(0)
    transform = ModalityDropoutTransform((0, 1, 2), 1.0, leave_one=True)
    left = torch.stack([transform(image=torch.ones(3, 1, 2, 2))["image"].amax((1, 2, 3)) for _ in range(600)])
    assert torch.equal(left.sum(1), torch.ones(600))
    assert torch.allclose(left.mean(0), torch.full((3,), 1 / 3), atol=0.07)
    guided = transform(image=torch.ones(5, 1, 2, 2))["image"].amax((1, 2, 3))
    assert guided[:3].sum() == 1
    assert torch.equal(guided[3:], torch.ones(2))  # the label map of the stage before


def test_channels_are_blanked_independently_and_as_often_as_asked():
    torch.manual_seed(0)
    transform = ModalityDropoutTransform((1, 2), 0.25)
    image = torch.ones(3, 2, 3, 4)
    gone = torch.stack([transform(image=image)["image"].amax((1, 2, 3)) == 0 for _ in range(2000)]).float()
    assert gone[:, 0].sum() == 0
    assert torch.allclose(gone[:, 1:].mean(0), torch.tensor(0.25), atol=0.03)
    assert abs((gone[:, 1] * gone[:, 2]).mean() - 0.25**2) < 0.02
    assert image.min() == 1  # the loader's array stays as it is
