"""Registration of image files, with a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.files import check_output_folder, write_json, written_whole
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.images.checks import check_images
from nnunet_ext.images.file_names import ENDINGS, image_stem
from nnunet_ext.images.geometry import resample_to
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.messages import in_english
from nnunet_ext.registration.checkerboard import draw_checkerboard
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.registering import register
from nnunet_ext.registration.result import RegistrationResult


@holding(owned_folder, "out")
def register_files(
    fixed: Path,
    moving: Sequence[Path],
    out: Path,
    *,
    fixed_is_ct: bool = True,
    rigid_only: bool = False,
    seed: int | None = None,
    separate: bool = False,
    backend: str = "simpleitk",
) -> RegistrationResult:
    """Register image files; what `nnunet_ext register` does.

    Writes for each moving image `NAME` into `out`: `NAME_registered.nii.gz` (cubic B-spline, on the fixed grid),
    `NAME.tfm` (fixed points -> moving points), and for all of them `registration.json` and `checkerboard.png`.

    Args:
        fixed: The CT.
        moving: MR images; their file names name the results, so they must differ.
        out: Folder for the results, made if needed.
        fixed_is_ct: False where the fixed image is an MR.
        rigid_only: Leave the elastic step out.
        seed: Of the sampling.
        separate: Do not look for one transform that fits all moving images.
        backend: Whose optimiser, `simpleitk` or `elastix`.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read or registered.
    """
    check_output_folder(out)
    for path in (fixed, *moving):
        if Path(path).is_dir():
            raise IsADirectoryError(
                f"{path} is a folder, where one image is needed: name a file that ends in {', '.join(ENDINGS)}. DICOM "
                "series are registered by nnunet_ext convert --register, which makes such files of them"
            )
    options = RegistrationOptions(elastic=not rigid_only, together=not separate, backend=backend)
    if seed is not None:
        options = replace(options, seed=seed)
    fixed_image = read_image(Path(fixed))
    names = [image_stem(Path(path)) or Path(path).name for path in moving]
    if len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"moving images {', '.join(names)}: two have one name, so results would overwrite each other")
    images = {name: read_image(Path(path)) for name, path in zip(names, moving, strict=True)}
    check_images({"the fixed image": fixed_image, **images})
    result = register(fixed_image, images, fixed_is_ct=fixed_is_ct, options=options)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    registered = {}
    for name, image in images.items():
        registered[name] = resample_to(image, fixed_image, transform=result.channels[name].transform)
        write_image(registered[name], out / f"{name}_registered.nii.gz")
        with written_whole(out / f"{name}.tfm", ending=".tfm") as temporary:
            sitk.WriteTransform(result.channels[name].transform, str(temporary))
    before = {name: resample_to(image, fixed_image) for name, image in images.items()}
    write_report(result, fixed_image, before, registered, out)
    return result


def write_report(
    result: RegistrationResult,
    fixed: sitk.Image,
    before: Mapping[str, sitk.Image],
    registered: Mapping[str, sitk.Image],
    out: Path,
) -> None:
    """`registration.json` and `checkerboard.png` in the folder `out`; images lie on the grid of `fixed`."""
    out = Path(out)
    said = result.warnings
    record = {
        **result.as_dict(),
        "warnings": in_english(said),
        "messages": [message.to_json() for message in said],
    }
    write_json(record, out / "registration.json")
    figure = draw_checkerboard(result, fixed, before, registered)
    with written_whole(out / "checkerboard.png") as temporary:
        figure.savefig(temporary, format="png", facecolor="black")
