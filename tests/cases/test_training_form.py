import pytest
from learned_files import write_sharpening

from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.cases.training_form import learned_resampling, recorded_options


def test_options_of_a_conversion_without_learned_resampling_name_none(tmp_path):
    options = recorded_options({"nnunet_ext": {"n4": False}})
    assert options == ChannelOptions(n4=False)
    assert learned_resampling(options, [tmp_path]) is None
    assert learned_resampling(None, [tmp_path]) is None


def test_the_weights_that_the_options_name_are_found_by_their_hash(tmp_path):
    write_sharpening(tmp_path / "model", seed=1)
    wanted = write_sharpening(tmp_path / "raw", seed=2)
    options = recorded_options({"nnunet_ext": {"learned_resampling": wanted.sha256}})
    folders = [tmp_path / "model", tmp_path / "none", tmp_path / "raw"]
    assert learned_resampling(options, folders).sha256 == wanted.sha256
    with pytest.raises(FileNotFoundError, match=rf"SHA-256 {wanted.sha256[:12]}\.\.\.\) are not in \S*model, \S*none\. "
                       r"Copy learned_resampling.npz and learned_resampling.json .* to \S*model"):  # fmt: skip
        learned_resampling(options, folders[:2])
