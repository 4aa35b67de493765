import pytest
import torch
from blobs import blobs, slices_in

from nnunet_ext.superresolution.learning import learn
from nnunet_ext.superresolution.network import SliceNetwork


@pytest.fixture(scope="session")
def network() -> SliceNetwork:
    """Trained on slices of two volumes, 0 and 1."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    slices = [one for seed in (0, 1) for one in slices_in(blobs(seed), 5)]
    made = learn(slices, n_channels=1, iterations=120, seed=0, batch_size=4)
    torch.set_num_threads(threads)
    return made
