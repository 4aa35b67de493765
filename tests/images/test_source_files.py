"""Every file below a source is a channel, a label or left over, whatever the tree looks like."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sources import CHANNELS, write_dicom

from nnunet_ext.cases.prediction_cases import find_cases
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dicom.files import holds_dicom
from nnunet_ext.dicom.series import find_series
from nnunet_ext.images import source_files
from nnunet_ext.images.source_files import (
    BROKEN,
    CLOSED,
    READ_ALREADY,
    SPECIAL,
    UNREADABLE,
    FileCount,
    count_files,
    walk,
)

PATIENTS = {"p1": "ABC", "p2": "DEF"}


def reasons(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): problem for path, problem in walk(folder)}


def test_links_are_followed_and_a_folder_is_read_once_under_its_real_path(tmp_path: Path):
    source, outside = tmp_path / "src", tmp_path / "outside"
    (source / "z").mkdir(parents=True)
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "b").write_text("b")
    (source / "z" / "a").write_text("a")
    (source / "a_link_to_z").symlink_to(source / "z")
    (source / "linked").symlink_to(outside)
    (source / "file").symlink_to(outside / "deep" / "b")
    assert reasons(source) == {"a_link_to_z": READ_ALREADY, "z/a": "", "linked/deep/b": "", "file": ""}


def test_loops_end_and_do_not_leave_the_source(tmp_path: Path):
    source = tmp_path / "lab" / "src"
    (source / "a").mkdir(parents=True)
    (tmp_path / "lab" / "other_patients").mkdir()
    (tmp_path / "lab" / "other_patients" / "x").write_text("x")
    (tmp_path / "far" / "below").mkdir(parents=True)
    (tmp_path / "far" / "beside").write_text("x")
    for name, target in {
        "self": source,
        "up": tmp_path / "lab",
        "root": Path("/"),
        "far": tmp_path / "far" / "below",
    }.items():
        (source / "a" / name).symlink_to(target)
    (tmp_path / "far" / "below" / "up").symlink_to(tmp_path / "far")
    (source / "circle").symlink_to(source / "circle")
    found = reasons(source)
    assert found.pop("circle") == BROKEN
    assert found == dict.fromkeys(("a/self", "a/up", "a/root", "a/far/up"), READ_ALREADY)


def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(source_files.os, "scandir", refuse)
    assert reasons(tmp_path) == {"pipe": SPECIAL, "to_pipe": SPECIAL, "gone": BROKEN, "closed": CLOSED}


@pytest.mark.parametrize(
    "name", [".DS_Store", "._CT.nii.gz", "Thumbs.db", "desktop.ini", "__MACOSX/CT.nii", ".git/config"]
)
def test_hidden_and_system_files_have_one_reason(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert str(count_files(tmp_path, walk(tmp_path))) == (
        "1 files: 0 used as channels, 0 as labels, 1 left over: 1 hidden or system files"
    )


def test_the_line_names_a_few_and_the_record_all(tmp_path: Path):
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("x")
    count = count_files(tmp_path, walk(tmp_path), channels=[tmp_path / "4.txt"])
    assert str(count) == (
        "5 files: 1 used as channels, 0 as labels, 4 left over: 4 files that are no images [0.txt, 1.txt, 2.txt and 1 more]"
    )
    assert count.as_dict()["left_over_files"] == {"files that are no images": [f"{n}.txt" for n in range(4)]}
    assert count.of_failed().left_over.total() == 5


def test_dicom_files_that_cannot_be_read_are_no_other_files_and_their_case_is_told(tmp_path: Path, monkeypatch):
    from nnunet_ext.dicom import series

    write_dicom(tmp_path / "p")
    (tmp_path / "p" / "structures").write_bytes(b"x")
    inner = holds_dicom

    def closed(path: Path) -> bool:
        if path.name == "structures":
            raise PermissionError(13, "Permission denied")
        return inner(path)

    monkeypatch.setattr(series, "holds_dicom", closed)
    assert find_series(tmp_path).ignored == {UNREADABLE: 1}
    lines = list_cases(tmp_path, show_progress=False).lines
    assert any("1 files beside its images cannot be read, images or labels may be among them" in line for line in lines)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_named_like_an_image_fails_its_case_and_is_not_waited_for(tmp_path: Path):
    sitk.WriteImage(sitk.Image(5, 7, 11, sitk.sitkInt16), str(tmp_path / "a_0000.nii.gz"))
    os.mkfifo(tmp_path / "b_0000.nii.gz")
    (tmp_path / "c_0000.nii.gz").symlink_to(tmp_path / "b_0000.nii.gz")
    found = find_cases(tmp_path, channels=["CT"], optional=(), show_progress=False)
    assert list(found.cases) == ["a"]
    assert {name: reason.partition("; ")[0] for name, reason in found.failed.items()} == {
        "b": "b_0000.nii.gz is no regular file",
        "c": "c_0000.nii.gz is no regular file",
    }


NAMES = st.sampled_from([
    "CT.nii.gz", "T1.nii.gz", "T2.nii", "label.nii.gz", "Eye_L.nii.gz", "Lens_R.mha", "FLAIR.nii.gz", "CT.nii", "gt.nrrd",
    "Segmentation.seg.nrrd", ".DS_Store", "._CT.nii.gz", "Thumbs.db", "README", "CT.json", "0001.dcm", "DICOMDIR", "x.raw",
    "a_0000.nii.gz", "a_0001.nii", "b_0000.nrrd", "case_01_IMG_CT.nrrd", "case_01_IMG_MR_T1.nrrd",
    "case_01_OAR_Eye_AL.seg.nrrd", "case_01_OAR_Brainstem.seg.nrrd", "notes.txt", "张三.nii.gz",
])  # fmt: skip
PLACES = st.sampled_from(
    ["", "a", "case_01", "case_01/deep", "a/masks", "a/labels", "set_1/case_01", "set_1/b", "a/.cache"]
)
CONTENTS = st.sampled_from(["x", "x", "x", "", "gone", "file link", "loop", "pipe", "dicom"])
TREES = st.dictionaries(st.tuples(PLACES, NAMES), CONTENTS, max_size=18)
NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1 1 1\nspace: LPS\nencoding: raw\n\n\0"


def plant(root: Path, tree: dict, dicom: bytes) -> None:
    for (place, name), content in tree.items():
        path = root / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "gone":
            path.symlink_to(root / "nowhere")
        elif content == "loop":
            path.symlink_to(root)
        elif content == "pipe":
            os.mkfifo(path)
        elif content == "file link":
            (root.parent / "outside").write_bytes(NRRD)
            path.symlink_to(root.parent / "outside")
        else:
            path.write_bytes({"x": NRRD, "dicom": dicom}.get(content, b""))


def files_there(root: Path) -> int:
    """Counted without the package: all that is no folder, and links to folders, which all lead back here."""
    return sum(
        len(names) + sum((Path(place) / folder).is_symlink() for folder in folders)
        for place, folders, names in os.walk(root)
    )


@pytest.fixture(scope="module")
def one_dicom_file(tmp_path_factory) -> bytes:
    return next(write_dicom(tmp_path_factory.mktemp("dicom")).rglob("*.dcm")).read_bytes()


@settings(max_examples=60, deadline=None)
@given(tree=TREES, layout=st.sampled_from(["folders", "dicom", "hanseg", "files", "predict folders", "predict dicom"]))
def test_every_file_of_any_tree_is_a_channel_a_label_or_left_over(one_dicom_file: bytes, tree: dict, layout: str):
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "src"
        root.mkdir()
        plant(root, tree, one_dicom_file)
        if "dicom" in layout:
            write_dicom(root / "patient")
        try:
            if layout in ("folders", "dicom", "hanseg"):
                listing = list_cases(root, layout=layout, show_progress=False)
                count, said = listing.files, "\n".join(listing.lines)
                assert str(count) in said
            else:
                found = find_cases(root, channels=CHANNELS, optional=(), layout=layout.split()[-1], show_progress=False)
                count = found.count()
                assert count.labels == 0
        except (FileNotFoundError, ValueError) as error:
            if "no case" not in str(error) and "both files and folders" not in str(error):
                raise
            return  # nothing is there in this layout
        assert count.files == files_there(root), str(count)
        assert count.channels + count.labels + sum(count.left_over.values()) == count.files
        assert min(count.left_over.values(), default=1) > 0


def test_counts_of_cases_that_fail_later_are_left_over():
    count = source_files.total({"a": FileCount(3, 1), "b": FileCount(3, 1)}, FileCount(), failed=["b"])
    assert str(count) == "8 files: 3 used as channels, 1 as labels, 4 left over: 4 files of cases that failed"
