"""Interpolation between thick slices against the nearest slice, on phantoms that were thinned out.

    python -m nnunet_ext.end_to_end.resampling_benchmark OUT                    what is done is not repeated
    python -m nnunet_ext.end_to_end.resampling_benchmark OUT --table FILE       also writes the table

Phantoms with slices of 1.25 mm are thinned to 2.5 mm (every other case) and 5 mm: means over slices, and labels by the
largest share. Each thinned image goes back to 1.25 mm. Error: root of the mean squared difference to the thin image, over
the body and within 10 mm of the organs, in HU or in percent of the thin image's standard deviation over the body.

What the difference makes of contours is two studies of `nnunet_ext benchmark learning` on the cases in `OUT/thick`, with
`--planner CascadeOARPlannerSmall` and `CascadeOARPlannerSmallSeparateZ`. Their commands stand in `results/resampling.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cascade.resampling import resample_image
from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.phantom.case_files import FILES
from nnunet_ext.phantom.making import make_phantoms

#: Slices of a phantom that become one: 2.5 and 5 mm.
THINNED = (2, 4)
THIN_SLICE_MM = 1.25
NEAR_MM = 10.0


def thinned(image: sitk.Image, slices: int) -> sitk.Image:
    """Means over so many slices, rounded, of the image's type."""
    return sitk.Cast(sitk.Round(sitk.BinShrink(sitk.Cast(image, sitk.sitkFloat32), [1, 1, slices])), image.GetPixelID())


def thinned_labels(labels: sitk.Image, slices: int) -> sitk.Image:
    """The label, or background, with the largest share of so many slices."""
    values = [int(v) for v in np.unique(sitk.GetArrayViewFromImage(labels))]
    shares = [sitk.BinShrink(sitk.Cast(labels == v, sitk.sitkFloat32), [1, 1, slices]) for v in values]
    winner = np.argmax([sitk.GetArrayViewFromImage(share) for share in shares], axis=0)
    result = sitk.GetImageFromArray(np.asarray(values, np.uint8)[winner])
    result.CopyInformation(shares[0])
    return result


def slices_of(case: int) -> int:
    return THINNED[case % len(THINNED)]


def make_thick(out: Path, thin: Sequence[Path]) -> None:
    """`out/<case>` with the files of every thin case, thinned."""
    for case, folder in enumerate(thin):
        there = out / folder.name
        if (there / "label.nii.gz").is_file():
            continue
        there.mkdir(parents=True, exist_ok=True)
        for name in FILES[:-1]:
            write_image(thinned(read_image(folder / name), slices_of(case)), there / name)
        write_image(thinned_labels(read_label_map(folder / FILES[-1]), slices_of(case)), there / FILES[-1])


def errors(thin: Sequence[Path]) -> list[dict]:
    """One row per case, channel, and way of going back to the thin grid."""
    rows = []
    for case, folder in enumerate(thin):
        slices = slices_of(case)
        labels = sitk.GetArrayFromImage(read_label_map(folder / FILES[-1]))
        for name in FILES[:-1]:
            image = read_image(folder / name)
            array = sitk.GetArrayFromImage(image).astype(np.float32)
            n = len(array) // slices * slices  # the rest is no whole thick slice, and is taken from both ends
            start = (len(array) - n) // 2
            array, organs = array[start : start + n], labels[start : start + n] > 0
            spacing = image.GetSpacing()[::-1]
            is_ct = name.startswith("CT")
            body = body_mask_array(array, spacing_mm=spacing, is_ct=is_ct)
            near = body & (ndimage.distance_transform_edt(~organs, sampling=spacing) <= NEAR_MM)
            thick = np.rint(array.reshape(-1, slices, *array.shape[1:]).mean(axis=1))
            unit = 1.0 if is_ct else float(array[body].std()) / 100
            for how, force in (("spline", False), ("nearest slice", None)):
                grids = (slices * spacing[0], *spacing[1:]), spacing
                back = resample_image(thick[None], array.shape, *grids, force_separate_z=force)[0]
                squared = ((back - array) / unit) ** 2
                row = {"case": case, "slice_mm": slices * THIN_SLICE_MM, "channel": name.split(".")[0], "how": how}
                rows.append(row | {w: float(np.sqrt(squared[m].mean())) for w, m in (("body", body), ("near", near))})
    return rows


def table(rows: Sequence[Mapping]) -> str:
    """Markdown with a row per thickness and channel, mean over the cases."""

    def mean(where: str, **wanted: object) -> str:
        found = [row[where] for row in rows if all(row[k] == v for k, v in wanted.items())]
        return f"{np.mean(found):.1f}"

    lines = [
        "| slices | channel | body: nearest slice | body: spline | near organs: nearest slice | near organs: spline |",
        "|---|---|---|---|---|---|",
    ]
    for mm in sorted({row["slice_mm"] for row in rows}):
        for channel in ("CT", "T1", "T2"):
            cells = [
                mean(where, slice_mm=mm, channel=channel, how=how)
                for where in ("body", "near")
                for how in ("nearest slice", "spline")
            ]
            unit = "HU" if channel == "CT" else "% of SD"
            lines.append(f"| {mm:g} mm | {channel}, {unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--cases", type=int, default=20, metavar="N", help="phantoms")
    parser.add_argument("--phantom-seed", type=int, default=60, metavar="S")
    parser.add_argument("--table", type=Path, metavar="FILE")
    a = parser.parse_args(argv)
    file = a.out / "errors.json"
    thin = make_phantoms(a.out / "thin", n_cases=a.cases, seed=a.phantom_seed, size="thin", n_processes=1)
    make_thick(a.out / "thick", thin)
    if not file.is_file():
        file.write_text(json.dumps(errors(thin), indent=1) + "\n")
    text = table(json.loads(file.read_text()))
    print(text)
    if a.table is not None:
        a.table.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
