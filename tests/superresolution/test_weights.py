import hashlib
import json
import pickle

import numpy as np
import pytest
import torch

from nnunet_ext.superresolution.network import SliceNetwork
from nnunet_ext.superresolution.weights import read_learned_resampling, record_file, write_learned_resampling


@pytest.fixture
def written(tmp_path):
    torch.manual_seed(0)
    network = SliceNetwork(2, features=4, hidden_layers=2)
    torch.nn.init.normal_(network.last.weight)
    file = tmp_path / "learned_resampling.npz"
    write_learned_resampling(network, ("CT", "T1"), file, {"errors": [], "seed": 3})
    return network, file


def test_what_is_read_is_what_was_written(written):
    network, file = written
    found = read_learned_resampling(file)
    assert found.channels == ("CT", "T1")
    assert found.index("T1") == 1
    assert found.record["seed"] == 3
    for name, value in network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value)
    assert sorted(path.name for path in file.parent.iterdir()) == ["learned_resampling.json", "learned_resampling.npz"]


def test_a_pair_that_does_not_belong_together_is_refused(written, tmp_path):
    network, file = written
    torch.nn.init.ones_(network.last.weight)
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    write_learned_resampling(network, ("CT", "T1"), other, {"errors": []})
    file.write_bytes(other.read_bytes())  # as after a kill between the two files
    with pytest.raises(
        ValueError, match=r"not the file that learned_resampling.json beside it was written for; make it"
    ):
        read_learned_resampling(file)


def test_missing_files_are_named_with_the_remedy(written):
    _, file = written
    record_file(file).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"learned_resampling.json does not exist; make it again with nnunet_ext"
    ):
        read_learned_resampling(file)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no learned resampling .*; make it again with nnunet_ext learn-resampling"
    ):
        read_learned_resampling(file)


class _Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a weight file ran')",))


def with_hash(file, **changes) -> None:
    record = json.loads(record_file(file).read_text())
    record["weights_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    record_file(file).write_text(json.dumps({**record, **changes}))


def test_code_in_the_weights_is_not_run(written):
    _, file = written
    file.write_bytes(pickle.dumps(_Runs()))
    with_hash(file)
    with pytest.raises(ValueError, match="does not hold the weights it should"):
        read_learned_resampling(file)
    with file.open("wb") as stream:
        np.savez(stream, first=np.array([_Runs()], dtype=object))
    with_hash(file)
    with pytest.raises(ValueError, match=r"does not hold the weights it should .*allow_pickle=False"):
        read_learned_resampling(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, and 1 is read"),
        ({"features": 10**9}, "no network of ours has 1000000000 features"),
        ({"features": 8}, "does not hold the weights it should"),
        ({"channels": "CT"}, 'channels is "CT", where a list'),
    ],
)
def test_records_that_do_not_fit_are_refused(written, changes, message):
    _, file = written
    with_hash(file, **changes)
    with pytest.raises(ValueError, match=message):
        read_learned_resampling(file)


def test_weights_that_are_no_numbers_are_refused(written):
    network, file = written
    torch.nn.init.constant_(network.last.weight, float("nan"))
    write_learned_resampling(network, ("CT", "T1"), file, {"errors": []})
    with pytest.raises(ValueError, match="holds weights that are no numbers"):
        read_learned_resampling(file)
