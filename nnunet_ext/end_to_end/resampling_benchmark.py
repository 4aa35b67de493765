"""Interpolation between thick slices against the nearest slice, on phantoms that were thinned out.

    python -m nnunet_ext.end_to_end.resampling_benchmark OUT                    all steps; what is done is not repeated
    python -m nnunet_ext.end_to_end.resampling_benchmark OUT --table results/resampling.md

Phantoms with slices of 1.25 mm are thinned to 2.5 mm (every other case) and 5 mm: means over slices, and labels by the
largest share. Two questions are asked.

1. Each thinned image goes back to 1.25 mm. Error: root of the mean squared difference to the thin image, over the body and
   within 10 mm of the organs, in HU or in percent of the thin image's standard deviation over the body.
2. The cascade of `CascadeOARPlannerSmall` and that of `CascadeOARPlannerSmallSeparateZ` are trained on the thinned cases:
   the localizer once, the segmenter with two seeds and small patches, all for equal iterations. The scores are those of
   hold-out cases on their own grid, by `nnunet_ext predict`'s code.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cascade.resampling import resample_image
from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.end_to_end import recipe_benchmark
from nnunet_ext.end_to_end.learning.edits import patch, resolved
from nnunet_ext.end_to_end.recipe_benchmark import ID, LOCALIZER, NAME, WHOLE, Study
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.case_files import FILES
from nnunet_ext.phantom.making import make_phantoms

#: How images are resampled -> planner.
PLANNERS = {"spline": "CascadeOARPlannerSmall", "nearest slice": "CascadeOARPlannerSmallSeparateZ"}
#: Slices of a phantom that become one: 2.5 and 5 mm.
THINNED = (2, 4)
THIN_SLICE_MM = 1.25
NEAR_MM = 10.0
#: Without the localizer's maps of the training cases, which would take two more trainings of it.
VARIANT = "jitter as planned"
SMALL_ORGANS = ("OpticNrv_L", "OpticNrv_R", "OpticChiasm")


class ThickStudy(Study):
    """One planner's folders."""

    def __init__(self, options: argparse.Namespace, how: str) -> None:
        values = {
            **vars(options),
            "out": options.out / how.replace(" ", "_"),
            "planner": PLANNERS[how],
            "device": "cpu",
        }
        super().__init__(argparse.Namespace(**values))
        self.how, self.thick = how, options.out / "thick"

    def prepare(self) -> None:
        o, d = self.options, self.demo
        test = [f"phantom_{i:03d}" for i in range(o.train, o.train + o.test)]
        convert = ["nnunet_ext", "convert", str(self.thick), "-d", str(ID), "-n", NAME, "--no-preview", "-np", "1"]
        d.step("Convert", [*convert, "--test", *test])
        plan = ["nnUNetv2_plan_and_preprocess", "-d", str(ID), "-npfp", "1", "-np", "1", "1", "-c", WHOLE, LOCALIZER]
        d.step("Plan and preprocess", [*plan, "-pl", o.planner])
        cases = [f"phantom_{i:03d}" for i in range(o.train)]
        fold = [{"train": cases[2:], "val": cases[:2]}]
        (self.preprocessed / "splits_final.json").write_text(json.dumps(fold))
        self.use_small_patches()

    def use_small_patches(self) -> None:
        """Half of the ROI's length and two at a time: the planner's are meant for a GPU or for hours."""
        file = self.preprocessed / f"{self.plans}.json"
        plans = json.loads(file.read_text())
        small = resolved(plans, recipe_benchmark.SEGMENTER)
        patch(0.5, 2)(small)
        plans["configurations"][recipe_benchmark.SEGMENTER] |= {k: small[k] for k in ("patch_size", "batch_size")}
        file.write_text(json.dumps(plans))

    def command(self, variant: str, seeds: Sequence[str]) -> list[str]:
        o = self.options
        module = [sys.executable, "-m", "nnunet_ext.end_to_end.resampling_benchmark", str(o.out.parent)]
        options = [f"--train={o.train}", f"--test={o.test}", f"--iterations={o.iterations}"]
        return [*module, *options, "--how", self.how, "--run", variant, "--seeds", *seeds]

    def train(self, seed: int) -> dict:
        """Segmenter of one seed, trained and scored, in a process of its own."""
        return self.run(VARIANT, seed, self.options.iterations)


def train_and_score(study: ThickStudy, seed: int) -> dict:
    """DSC (%) and HD95 (mm) per organ of the segmenter after its iterations."""
    import torch

    torch.set_num_threads(1)
    trainer = recipe_benchmark._trainer(study, VARIANT, seed, epochs=study.options.iterations // 25)
    trainer.run_training()
    predictions = study.out / "predictions" / recipe_benchmark.key_of(VARIANT, seed)
    recipe_benchmark._predict(study, predictions, Path(trainer.output_folder_base))
    return {"how": study.how, "seed": seed, **recipe_benchmark._scores(study, predictions)}


# ------------------------------------------------------------------------------------------------- thinned phantoms


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


# ------------------------------------------------------------------------------------------------------- the tables


def tables(rows: Sequence[Mapping], runs: Sequence[Mapping]) -> str:
    """Markdown of both questions."""

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
    short = [o.replace("OpticNrv", "Nrv").replace("OpticChiasm", "Chiasm") for o in ORGANS]
    lines += [
        "",
        f"| resampling | seed | {' | '.join(short)} | nerves and chiasm: DSC % | all organs: DSC % | all organs: HD95 mm |",
        "|---" * (len(ORGANS) + 5) + "|",
    ]
    for run in sorted(runs, key=lambda run: (run["how"], run["seed"])):
        dsc, hd95 = run["dsc_percent"], run["hd95_mm"]
        cells = [f"{dsc[organ]:.1f}" for organ in ORGANS]
        cells += [f"{np.mean([dsc[organ] for organ in organs]):.1f}" for organs in (SMALL_ORGANS, ORGANS)]
        lines.append(f"| {run['how']} | {run['seed']} | {' | '.join(cells)} | {np.mean(list(hd95.values())):.2f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], metavar="S", help="of weights and augmentation")
    parser.add_argument("--iterations", type=int, default=500, metavar="N", help="of the segmenter")
    parser.add_argument("--train", type=int, default=14, metavar="N", help="training phantoms")
    parser.add_argument("--test", type=int, default=6, metavar="N", help="hold-out phantoms")
    parser.add_argument("--phantom-seed", type=int, default=60, metavar="S")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables of what was run so far, and end")
    parser.add_argument("--how", choices=PLANNERS, help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    a.out = a.out.resolve()
    if a.run:
        study = ThickStudy(a, a.how)
        os.environ |= {"nnUNet_n_proc_DA": study.loader_processes}
        if a.run == LOCALIZER:
            recipe_benchmark.train_localizer(study, 0)
        else:
            file = study.runs / f"{recipe_benchmark.key_of(VARIANT, a.seeds[0])}.json"
            file.write_text(json.dumps(train_and_score(study, a.seeds[0]), indent=1) + "\n")
        return 0
    file = a.out / "errors.json"
    if a.table is None:
        n = a.train + a.test
        thin = make_phantoms(a.out / "thin", n_cases=n, seed=a.phantom_seed, size="thin", n_processes=1)
        make_thick(a.out / "thick", thin)
        if not file.is_file():
            file.write_text(json.dumps(errors(thin), indent=1) + "\n")
        for study in (ThickStudy(a, how) for how in PLANNERS):
            study.prepare()
            study.demo.step("Train the localizer", study.command(LOCALIZER, ["0"]))
            for seed in a.seeds:
                study.train(seed)
    runs = [json.loads(run.read_text()) for run in sorted(a.out.glob("*/runs/*.json"))]
    text = tables(json.loads(file.read_text()), runs)
    print(text)
    if a.table is not None:
        a.table.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
