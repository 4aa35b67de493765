"""Reading one 3D image, with the checks that image libraries leave out.

`read_image` is the only reader of image files in this package. It refuses files that would go wrong hours later, such
as cut-off files, which SimpleITK fills with zeros. It also refuses 4D and colour images, NaN, and orientations that are
missing, sheared or contradictory. NIfTI is read through NiBabel from one pass over the file. The content says whether
it is compressed, whatever its name. If a stale qform stands beside an sform, the sform counts (ITK decides otherwise in
some cases). NRRD and MetaImage are read by SimpleITK after their byte count has been checked.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.file_content import one_line, refuse_other_content
from nnunet_ext.images.file_names import ENDINGS, image_stem, refuse_no_file, refuse_pointer
from nnunet_ext.images.itk_headers import check_meta_image, check_nrrd
from nnunet_ext.images.nifti import read_nifti, rotation_of

#: If the longest side of a voxel is shorter, the header is in metres. No clinical scanner goes below 0.1 mm.
SMALLEST_SPACING_MM = 0.02
#: If a side of a voxel is longer, the header says metres and means millimetres.
LARGEST_SPACING_MM = 100.0


def read_image(path: Path) -> sitk.Image:
    """One whole, finite, scalar 3D image with a known orientation.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha` or `.mhd`.

    Returns:
        The image as stored, its axis order untouched. NIfTI with a scale factor becomes 32-bit float. Oddities of a
        file that is read all the same are logged, or go to the list of `collected_notes`.

    Raises:
        FileNotFoundError, OSError: If there is no such file, or it may not be read.
        ValueError: If the image is not one.
        The messages have one line. They name the file, the fault and the remedy.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder, not an image; give the file in it")
    if not (path.exists() or path.is_symlink()):
        raise FileNotFoundError(f"{path.name} does not exist")
    refuse_no_file(path)
    if image_stem(path) is None:
        raise ValueError(f"{path.name}: cannot read this ending; use one of {', '.join(ENDINGS)}")
    try:
        refuse_pointer(path)
        image = read_nifti(path) if path.name.lower().endswith((".nii", ".nii.gz")) else _read_with_itk(path)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise OSError(f"{path.name} cannot be read ({reason}); check who may read it, or copy it again") from error
    except MemoryError as error:
        raise MemoryError(f"{path.name} does not fit into memory; free some, or crop the image") from error
    size, spacing = image.GetSize(), image.GetSpacing()
    if min(size) < 2:
        raise ValueError(f"{path.name}: a 3D image is needed, this one is flat, {'x'.join(map(str, size))} voxels")
    if not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"{path.name}: spacing {spacing} mm is not positive; write the file with its true voxel size")
    size_mm = "x".join(f"{mm:.3g}" for mm in spacing)
    if max(spacing) < SMALLEST_SPACING_MM:
        raise ValueError(
            f"{path.name}: its voxels measure {size_mm} mm, so it is in metres or names a wrong unit; write it in mm"
        )
    if max(spacing) > LARGEST_SPACING_MM:
        raise ValueError(
            f"{path.name}: its voxels measure {size_mm} mm: its header gives a wrong size or unit; write it in mm"
        )
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ValueError(f"{path.name}: {bad} of {array.size} voxels are NaN or infinite; export the image again")
    return image


# -------------------------------------------------------------------------------------- NRRD and MetaImage


def _read_with_itk(path: Path) -> sitk.Image:
    nrrd = path.name.lower().endswith(".nrrd")
    with path.open("rb") as file:
        refuse_other_content(path, file.read(540), "NRRD" if nrrd else "MetaImage")
    try:
        check_nrrd(path) if nrrd else check_meta_image(path)
    except OverflowError as error:  # a size of 1e99
        raise ValueError(f"{path.name} is damaged: its header gives impossible sizes; copy it again") from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")  # found by themselves only for endings in lower case
    try:
        reader.ReadImageInformation()
        dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
        size = reader.GetSize()
        if components > 1:
            raise ValueError(
                f"{path.name} is an RGB or vector image of {components} components; a scalar one is needed"
            )
        if dimension == 4 and size[3] == 1:
            reader.SetExtractSize([*size[:3], 0])
        elif dimension != 3:
            sizes = "x".join(map(str, size))
            raise ValueError(f"{path.name} is {dimension}D, {sizes}; one 3D image is needed")
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} cannot be read, its header or its data is damaged or missing: {one_line(error)}; export it again"
        ) from error
    if "complex" in image.GetPixelIDTypeAsString():
        raise ValueError(f"{path.name} is a complex-valued image; a scalar 3D image is needed")
    direction = np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(rotation_of(direction, f"{path.name}: its direction").ravel().tolist())
    return sitk.Cast(image, sitk.sitkFloat32) if image.GetPixelID() == sitk.sitkFloat64 else image
