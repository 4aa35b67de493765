"""Personal words of headers, in labels and sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicom_files import only, repeat, write

from nnunet_ext.dicom.personal import without_personal
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study


def test_words_of_a_part_that_are_personal_are_left_out(tmp_path: Path):
    files = write(tmp_path, modality="CT", study=Study("MRN42", "Zhang^San"))
    repeat(files, 2, lambda d, k: setattr(d, "ConvolutionKernel", ("B30", "Zhang")[k]))
    labels = " ".join(f"{series.label} {series.choice}" for series in find_series(tmp_path).images)
    assert "kernel ***" in labels
    assert "zhang" not in labels.lower()


def test_labels_hold_nothing_personal(tmp_path: Path):
    study = Study("MRN42", "Zhang^San Feng")
    write(tmp_path, study=study, description="CT mrn42 ZHANG 20230115 feng 2023-01-15 head")
    assert only(tmp_path).label == "series 1 'CT *** *** *** *** *** head' (CT, 5 images)"


def test_short_names_and_other_dates_are_personal_too(tmp_path: Path):
    write(tmp_path, study=Study("MRN42", "Li^Bo"), description="Li Bo line 15.1.2023 2023年1月15日 bone")
    assert only(tmp_path).label == "series 1 '*** *** line *** *** bone' (CT, 5 images)"
    assert without_personal("its boundary", {"it", "bo"}) == "its boundary"


NASTY = {
    *("T1", "T1 2019", "Series", "CT", "The", "Case", "Li", "No", "001", "2019", "case_001", "1", "say", "Number"),
    *("images", "MR", "96", "Series^CT", "HEAD-001", "file", "左", "Hu"),
}


@pytest.mark.parametrize(
    "sentence",
    [
        "channel T1 has 2 series, series 3 '***' (MR, 24 images) and series 8 't1 +C' (MR, 96 images); say which in a file "
        "for --series: [case_001] T1 = NUMBER, or its SeriesInstanceUID",
        "CT: values -1024..3071 HU, 20101203 voxels at 2023-10-01; see nnunet_ext 0.1.0",
        "no image case_001_0000.nii.gz (channel CT) in imagesTr; the CT is left out",
    ],
)
def test_a_patient_named_as_our_own_words_leaves_our_sentences_as_they_are(sentence):
    assert without_personal(sentence, NASTY) == sentence


def test_what_is_none_of_our_words_is_taken_out_of_sentences_too():
    words = {"Zhangsan", "MRN-4711", "20190304", "Zhangsan^San Feng", "张", "Müller", "12345678"}
    said = "cannot read /data/Zhangsan/MRN-4711/x_12345678.dcm of Müller (张三), born 20190304; export it again"
    assert without_personal(said, words) == (
        "cannot read /data/***/***/x_***.dcm of *** (***三), born ***; export it again"
    )


def test_every_word_of_a_patient_named_as_our_words_is_taken_out_of_a_header(tmp_path: Path):
    write(tmp_path, study=Study("T1", "Series^CT"), description="Series T1 ct 2019-03-04 plan")
    assert only(tmp_path).label == "series 1 '*** *** *** *** plan' (CT, 5 images)"
