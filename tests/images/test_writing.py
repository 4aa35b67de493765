"""An image written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_bytes import make_image

from nnunet_ext.images.geometry import same_grid
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image


def test_write_leaves_nothing_but_the_file(tmp_path: Path):
    write_image(make_image(), tmp_path / "x.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii.gz"]
    assert same_grid(read_image(tmp_path / "x.nii.gz"), make_image(), 1e-3)
    with pytest.raises(OSError, match="cannot be written: make room on the disk, or choose a folder"):
        write_image(make_image(), tmp_path / "none" / "x.nii.gz")
