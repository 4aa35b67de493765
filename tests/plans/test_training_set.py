"""Training cases that can't be planned are all listed, by case and file."""

from __future__ import annotations

import pytest
import SimpleITK as sitk
from planned_heads import SPACINGS_MM, head, write_case, write_dataset_json

from nnunet_ext.plans.cascade_oar_planner_small import CascadeOARPlannerSmall


def test_every_case_whose_label_map_has_another_size_is_listed(own_raw):
    for case in ("head_00", "head_02"):
        _, label = head((2.0, 2.0, 2.0))
        sitk.WriteImage(label, str(own_raw / "labelsTr" / f"{case}.nii.gz"))
    with pytest.raises(ValueError, match=r"(?s)2 training cases.*head_00.*\(29, 31, 33\).*head_02"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_a_case_whose_channels_differ_in_size_is_listed_with_the_others(own_raw):
    images, _ = head((2.0, 2.0, 2.0))
    sitk.WriteImage(images[1], str(own_raw / "imagesTr" / "head_01_0001.nii.gz"))
    _, label = head((2.0, 2.0, 2.0))
    sitk.WriteImage(label, str(own_raw / "labelsTr" / "head_02.nii.gz"))
    with pytest.raises(ValueError, match=r"(?s)2 training cases.*head_01.*head_02"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_a_damaged_file_is_listed_by_its_case(own_raw):
    (own_raw / "labelsTr" / "head_01.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)1 training cases.*head_01"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_labels_that_nnunet_would_cut_down_are_listed_by_case_and_value(own_raw):
    for case, change in {
        "head_00": lambda label: sitk.Cast(label, sitk.sitkFloat32) * 0.9999999,
        "head_01": lambda label: sitk.Cast(label, sitk.sitkInt16) - 1,
        "head_02": lambda label: sitk.Cast(label, sitk.sitkFloat32),  # whole numbers of another type
    }.items():
        file = own_raw / "labelsTr" / f"{case}.nii.gz"
        sitk.WriteImage(change(sitk.ReadImage(str(file))), str(file))
    said = (
        r"(?s)2 training cases.*head_00.* holds 0\.9999999, .*no whole number.*head_01': label values \[-1\] are not in"
    )
    with pytest.raises(ValueError, match=said) as caught:
        CascadeOARPlannerSmall(501).plan_experiment()
    assert "head_02" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t1, ct: t1 * 0, r"case 'head_01': T1 holds one value \(0\); export it again\. Files: "),
        (lambda t1, ct: ct, "case 'head_01': CT and T1 are the same image"),
    ],
)
def test_a_training_case_with_a_channel_that_holds_nothing_is_named(own_raw, spoil, message: str):
    ct, t1 = (own_raw / "imagesTr" / f"head_01_000{n}.nii.gz" for n in range(2))
    sitk.WriteImage(spoil(*(sitk.ReadImage(str(file)) for file in (t1, ct))), str(t1))
    with pytest.raises(ValueError, match=message):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_an_inverted_label_map_is_named(own_raw):
    file = own_raw / "labelsTr" / "head_01.nii.gz"
    label = sitk.ReadImage(str(file))
    sitk.WriteImage(sitk.Cast(label == 0, sitk.sitkUInt8), str(file))
    with pytest.raises(ValueError, match=r"case 'head_01': Eye_L fills 100% of the image"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_simpleitk_reader_and_another_orientation_raise_naming_the_case(own_raw):
    images, label = head(SPACINGS_MM[1])
    write_case(own_raw, "head_01", [sitk.DICOMOrient(i, "RAS") for i in images], sitk.DICOMOrient(label, "RAS"))
    write_dataset_json(own_raw, overwrite_image_reader_writer="SimpleITKIO")
    with pytest.raises(ValueError, match=r"(?s)1 training cases.*head_01.*not in LPS order.*NibabelIOWithReorient"):
        CascadeOARPlannerSmall(501).plan_experiment()


def test_a_label_value_that_the_dataset_does_not_name_is_listed(own_raw):
    _, label = head(SPACINGS_MM[0])
    array = sitk.GetArrayFromImage(label)
    array[0, 0, 0] = 9
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(label)
    sitk.WriteImage(changed, str(own_raw / "labelsTr" / "head_00.nii.gz"))
    with pytest.raises(ValueError, match=r"(?s)1 training cases.*head_00.*\[9\]"):
        CascadeOARPlannerSmall(501).plan_experiment()
