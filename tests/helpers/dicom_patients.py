"""Small patients as DICOM trees with oddly named folders and drawn organs, and their conversion."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import SimpleITK as sitk

from nnunet_ext.cases.dicom_cases import find_cases
from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.tracing import trace_mask

SHAPE, SPACING_MM = (24, 30, 36), (7.5, 6.6, 5.2)
NAME, ID, BIRTH = "Zhangsan^Wei", "MRN0042817", "19610327"
PERSONAL = ("zhangsan", "wei^", "mrn0042817", "0042817", "19610327", "20230115", "张三")
DRAWN = ("Eye_AL", "右眼球", "LENS-LT", "右晶体", "optic_nerve_left", "OpticNrv R", "视交叉")


def oblique(code: str = "LPS") -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(SHAPE, dtype=np.int16))
    image.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.08, -0.1, 0.12)
    image.SetDirection(transform.GetMatrix())
    image.SetOrigin((-93.0, -98.0, 300.0))
    return image


def volumes(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    head = np.sqrt((z / 78) ** 2 + (y / 85) ** 2 + (x / 75) ** 2) < 1
    ct = np.where(head, 40, -1000) + rng.integers(-10, 10, SHAPE)
    t1 = np.where(head, 120, 2) + rng.integers(0, 10, SHAPE)
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value, (k, j, i) in enumerate(
        [(12, 6, 24), (12, 6, 9), (12, 4, 24), (12, 4, 9), (12, 10, 22), (12, 10, 12), (12, 14, 17)], start=1
    ):
        label[k : k + 2, j : j + 2, i : i + 2] = value
    return {"CT": ct.astype(np.int16), "T1": t1.astype(np.int16), "T2": (260 - t1).astype(np.int16), "label": label}


def to_image(array: np.ndarray, code: str = "LPS") -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(oblique())
    return sitk.DICOMOrient(image, code)


def write_patient(
    root: Path, *, number: int = 1, code: str = "LPS", drawn=DRAWN, frames: str = "111", skip=(), tag: str = ""
) -> Path:
    """One patient's series in oddly named folders below `root`; files without suffix."""
    for path, content in patient(number, code, drawn, frames, skip, tag).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


@functools.cache
def patient(number: int, code: str, drawn: tuple, frames: str, skip: tuple, tag: str) -> dict[Path, bytes]:
    """The files of a patient, kept because making them takes as long as converting them."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        make_patient(root, number, code, drawn, frames, skip, tag)
        return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def make_patient(root: Path, number: int, code: str, drawn: tuple, frames: str, skip: tuple, tag: str) -> None:
    arrays = volumes(number)
    for n, (channel, description, headers) in enumerate(
        [
            ("CT", "Head 2.5", {}),
            ("T1", "ax t1 tse", {"EchoTime": 12, "RepetitionTime": 550}),
            ("T2", "T2_TSE_tra", {"EchoTime": 95, "RepetitionTime": 4200}),
        ]
    ):
        if channel in skip:
            continue
        study = Study(f"{ID}{number}{tag}", f"{NAME}{number}", study="ct" if channel == "CT" else "mr",
                      frame_of_reference=frames[n])  # fmt: skip
        more = {"PatientBirthDate": BIRTH, "StudyDate": "20230115", "AccessionNumber": "20230115", **headers}
        write_series(
            to_image(arrays[channel], code), root / f"{NAME}_{n}" / "DICOM", modality="CT" if channel == "CT" else "MR",
            study=study, number=n + 2, description=f"{description} {NAME.split('^')[0]}", headers=more, name="IM{:05d}",
        )  # fmt: skip
        if channel == "CT" and drawn:
            image = to_image(arrays["label"], code)
            label = sitk.GetArrayFromImage(image)
            organs = {name: trace_mask(label == value, image) for value, name in enumerate(drawn, start=1)}
            write_contours(
                {**organs, "BODY": []}, ct_series(root), root / "RS" / "plan", headers={"StudyDate": "20230115"}
            )


def run(source: Path, **options):
    options = {"dataset_id": 501, "name": "Heads", "n4": False, "clean_ct": False, "n_processes": 1, "preview": False,
               "show_progress": False, **options}  # fmt: skip
    return convert(source, raw_folder=source.parent / "raw", **options)


def ct_files(root: Path) -> list[Path]:
    return sorted((root / f"{NAME}_0" / "DICOM").iterdir())


def ct_series(root: Path) -> Series:
    (series,) = find_series(root / f"{NAME}_0").images
    return series


def edit(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def assert_nothing_personal(*folders: Path, texts=()) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            assert not any(word in str(path.relative_to(folder)).lower() for word in PERSONAL), path
            if path.is_file():
                content = path.read_bytes().lower()
                assert not any(word.encode() in content for word in PERSONAL), path
    for text in texts:
        assert not any(word in text.lower() for word in PERSONAL), text
        assert "\n" not in text


def second_t1(root: Path, description: str = "t1 tse +C", number: int = 8, **headers) -> None:
    study = Study(f"{ID}1", f"{NAME}1", study="mr", frame_of_reference="1")
    headers = {"EchoTime": 10, "RepetitionTime": 600, **headers}
    write_series(to_image(volumes(9)["T1"]), root / "more", modality="MR", study=study, number=number,
                 description=description, headers=headers)  # fmt: skip


def found(root: Path, rules: str = "", folder: Path | None = None):
    """The cases of a tree under a series file; nothing is converted."""
    file = None
    if rules:
        file = folder / "series.toml"
        file.write_text(rules, encoding="utf-8")
    return find_cases(root, modalities=("CT", "T1", "T2"), table=None, series_file=file, show_progress=False)


def rtstruct(root: Path) -> Path:
    return root / "RS" / "plan"
