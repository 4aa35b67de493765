import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.end_to_end.learning.data import data_sha256

FILES = ("imagesTr/a_0000", "labelsTr/a", "imagesTs/b_0000", "labelsTs/b")


@pytest.fixture
def raw(tmp_path):
    def write(name: str, *, value=0, spacing=1.0, compressed=True):
        for k, file in enumerate(FILES):
            path = tmp_path / name / f"{file}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(np.full((2, 3, 4), k + value * (k == 2), np.int16))
            image.SetSpacing((1.0, spacing, 2.0))
            sitk.WriteImage(image, str(path), compressed, 9 if value else 1)
        return tmp_path / name

    return write


def test_the_hash_is_of_names_grids_and_values(raw):
    first = data_sha256(raw("one"))
    assert data_sha256(raw("same", compressed=False)) == first
    assert data_sha256(raw("value", value=1)) != first
    assert data_sha256(raw("grid", spacing=1.5)) != first
    renamed = raw("name")
    (renamed / "imagesTs" / "b_0000.nii.gz").rename(renamed / "imagesTs" / "c_0000.nii.gz")
    assert data_sha256(renamed) != first
