"""`nnunet_ext learn-resampling`: the learned resampling of a data set, from its training images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from nnunet_ext._version import __version__
from nnunet_ext.folder_lock import owned_file
from nnunet_ext.images.reading import read_image
from nnunet_ext.nnunet_folders import (
    SAME_PERSON_KEY,
    channel_files,
    find_dataset,
    folder_of_variable,
    need,
    numbered_files,
    read_dataset_json,
)
from nnunet_ext.superresolution.learning import (
    LEAST_SPREAD,
    THICKNESS_MM,
    HeldOutError,
    Slice,
    held_out_errors,
    learn,
    thickness_range_mm,
)
from nnunet_ext.superresolution.slice_profiles import LEAST_RATIO
from nnunet_ext.superresolution.thinning import EQUAL, slice_axis
from nnunet_ext.superresolution.weights import WEIGHTS_FILE, write_learned_resampling
from nnunet_ext.training.person_splits import persons_among

#: The loss has stopped falling much by then, after three minutes of one core.
ITERATIONS = 2000
#: Cases that are read at most, to learn from and to judge on. Reading more of them takes longer than learning.
MOST_CASES, MOST_HELD_OUT = 24, 4
#: Share of the persons that the error is measured on.
HELD_OUT_SHARE = 0.2
#: Slices of an image, to learn from and to judge on, and the size of the latter in pixels.
SLICES, HELD_OUT_SLICES, HELD_OUT_PIXELS = 8, 3, 160


@dataclass(frozen=True)
class ResamplingSummary:
    """Result of `learn_resampling`.

    Attributes:
        file: The weights. The record lies beside them.
        channels: Names of the channels.
        errors: On the cases that were held out.
        trained_on, held_out: Cases.
        skipped: Case -> why nothing can be learned from it.
    """

    file: Path
    channels: tuple[str, ...]
    errors: list[HeldOutError]
    trained_on: list[str]
    held_out: list[str]
    skipped: dict[str, str]

    @property
    def table_markdown(self) -> str:
        """Held-out root mean square errors by channel and thickness, in the channel's unit."""
        rows = [
            f"| {self.channels[one.channel]} | {one.thickness_mm:g} | {one.cubic:.4g} | {one.learned:.4g} "
            f"| {100 * (one.learned / one.cubic - 1):+.1f} |"
            for one in self.errors
        ]
        head = ["| channel | slices, mm | error, cubic | error, learned | change, % |", "|---|---|---|---|---|"]
        return "\n".join([*head, *rows])

    @property
    def no_better(self) -> list[str]:
        """Channels whose error, over all thicknesses, is not below that of cubic interpolation."""
        return [
            name
            for number, name in enumerate(self.channels)
            if sum(one.learned for one in self.errors if one.channel == number)
            >= sum(one.cubic for one in self.errors if one.channel == number)
        ]


def learn_resampling(
    dataset_id: int | str,
    *,
    iterations: int = ITERATIONS,
    seed: int = 0,
    device: str = "cpu",
    show_progress: bool = True,
) -> ResamplingSummary:
    """Learn to make thin slices of thick ones, from the training images of a raw data set alone.

    Slices are made thick along an axis of their own plane, whose pixels are thin. A network learns what cubic interpolation
    loses of them. A fifth of the persons is held out, and tells the error. No label is read.

    The weights are written beside the preprocessed data set, when all is done. A run that is killed leaves what was there
    before. The same command begins anew then.

    Args:
        dataset_id: Number or name of a data set in `nnUNet_raw`.
        iterations: Batches. 2000 take some minutes on two cores.
        seed: Of weights, batches, and the choice of cases. The same seed, device and number of threads give the same
            weights.
        device: `cpu`, `cuda` or `mps`.
        show_progress: Show a progress bar.

    Raises:
        FileNotFoundError: If the data set, its training images or a channel is not there.
        ValueError: If an image is flat or blank, all cases are of one person, or no image has pixels that are shorter than
            its slices are thick.
        OSError: If another run works on the weights, or they can't be written.
    """
    raw = find_dataset("nnUNet_raw", dataset_id, "raw data sets")
    file = folder_of_variable("nnUNet_preprocessed", "preprocessed data sets") / raw.name / WEIGHTS_FILE
    described = read_dataset_json(raw / "dataset.json")
    names = need(described, "channel_names", raw / "dataset.json")
    channels = tuple(str(names[key]) for key in sorted(names, key=int))
    if twice := [name for name, n in Counter(channels).items() if n > 1]:
        raise ValueError(f"{raw / 'dataset.json'} has two channels {twice[0]!r}; give each a name of its own")
    cases = sorted(numbered_files(raw / "imagesTr")[0]) if (raw / "imagesTr").is_dir() else []
    if not cases:
        raise FileNotFoundError(
            f"there is no training image in {raw / 'imagesTr'}; convert some cases with labels first"
        )
    chosen = torch_device(device)
    with owned_file(file):
        trained_on, held_out = drawn_cases(cases, described.get(SAME_PERSON_KEY, []), seed)
        skipped: dict[str, str] = {}
        slices: dict[str, list[Slice]] = {}
        bar = tqdm([*trained_on, *held_out], desc="Reading", unit="case", disable=not show_progress)
        for number, case in enumerate(bar):
            found = channel_files(raw / "imagesTr", case, names)
            try:
                slices[case] = _slices_of_case(case, found, np.random.default_rng([seed, number]), case in held_out)
            except NothingToLearn as error:
                skipped[case] = str(error)
        learned_from = [one for case in trained_on for one in slices.get(case, ())]
        judged_on = [one for case in held_out for one in slices.get(case, ())]
        if not (learned_from and judged_on):
            case, why = next(iter(skipped.items()))
            raise ValueError(
                f"{len(skipped)} of the {len(slices) + len(skipped)} cases that were read teach nothing, and cases to learn "
                f"from and to judge on are needed. '{case}': {why}"
            )
        with tqdm(total=iterations, desc="Learning", unit="batch", disable=not show_progress) as progress:

            def say(done: int, left: float) -> None:
                progress.update(done - progress.n)
                progress.set_postfix_str(f"{left:.2f} of cubic interpolation's squared error")

            network = learn(
                learned_from, n_channels=len(channels), iterations=iterations, seed=seed, device=chosen, say=say
            )
            progress.update(iterations - progress.n)
        errors = held_out_errors(network, judged_on)
        summary = ResamplingSummary(file, channels, errors, trained_on, held_out, skipped)
        write_learned_resampling(network, channels, file, _record(summary, iterations, seed))
    return summary


def _record(summary: ResamplingSummary, iterations: int, seed: int) -> dict:
    return {
        "thickness_mm": list(THICKNESS_MM),
        "iterations": iterations,
        "seed": seed,
        "trained_on": [case for case in summary.trained_on if case not in summary.skipped],
        "held_out": [case for case in summary.held_out if case not in summary.skipped],
        "skipped": summary.skipped,
        "errors": [
            {
                "channel": summary.channels[one.channel],
                "thickness_mm": one.thickness_mm,
                "cubic_rmse": round(one.cubic, 6),
                "learned_rmse": round(one.learned, 6),
                "n_slices": one.n_slices,
            }
            for one in summary.errors
        ],
        "versions": {"nnunet_ext": __version__, "torch": torch.__version__},
    }


def torch_device(name: str) -> torch.device:
    """A device by its name.

    Raises:
        ValueError: If torch can't use it here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there.get(name, False):
        raise ValueError(
            f"device '{name}' is not there: {', '.join(one for one, works in there.items() if works)} can be used"
        )
    return torch.device(name)


def drawn_cases(cases: Sequence[str], same_person: Sequence[Collection[str]], seed: int) -> tuple[list[str], list[str]]:
    """Cases to learn from and cases to judge on, drawn at random by person.

    Raises:
        ValueError: If all cases are of one person.
    """
    persons = persons_among(cases, same_person)
    if len(persons) < 2:
        raise ValueError(
            f"the {len(cases)} training case(s) are of one person; two persons are needed, one to measure the error on"
        )
    order = np.random.default_rng(seed).permutation(len(persons))
    n_held_out = max(1, min(MOST_HELD_OUT, round(HELD_OUT_SHARE * len(persons))))
    held_out = [case for at in order[:n_held_out] for case in persons[at]]
    trained_on = [case for at in order[n_held_out:] for case in persons[at]]
    return sorted(trained_on[:MOST_CASES]), sorted(held_out[:MOST_HELD_OUT])


class NothingToLearn(ValueError):
    """The pixels of a case's slices are longer than the slices are thick or too coarse, or its slices show nothing."""


def _slices_of_case(case: str, files: dict[str, Path], rng: np.random.Generator, held_out: bool) -> list[Slice]:
    """Some slices of each channel of a case.

    Raises:
        NothingToLearn: If there is nothing to learn from its grid.
        ValueError: If an image can't be read or is blank.
    """
    found = []
    for channel, (name, file) in enumerate(files.items()):
        try:
            image = read_image(file)
        except (ValueError, OSError) as error:
            raise type(error)(f"case '{case}', {name}: {error}") from error
        check_grid(image)
        found += some_slices(image, channel, rng, held_out=held_out, called=f"case '{case}', {name} ({file.name})")
    return found


def check_grid(image: sitk.Image) -> None:
    """Refuse a grid whose slices teach nothing.

    Raises:
        NothingToLearn: Naming its voxels.
    """
    short, middle, long = sorted(image.GetSpacing())
    voxels = "x".join(f"{mm:.3g}" for mm in image.GetSpacing())
    if middle > EQUAL * short and long < EQUAL * middle:
        raise NothingToLearn(
            f"its voxels of {voxels} mm are thicker in plane than between slices, so a slice shows no more than the "
            "direction across the slices does"
        )
    if thickness_range_mm(middle) is None:
        raise NothingToLearn(
            f"its voxels of {voxels} mm are too coarse in plane; below {THICKNESS_MM[1] / LEAST_RATIO:.3g} mm are needed"
        )


def some_slices(
    image: sitk.Image, channel: int, rng: np.random.Generator, *, held_out: bool, called: str
) -> list[Slice]:
    """Slices that show something, drawn at random, cut to where they do.

    Raises:
        NothingToLearn: If no slice shows anything.
        ValueError: If the image is blank.
    """
    array = sitk.GetArrayViewFromImage(image)
    spacing_mm = image.GetSpacing()[::-1]
    axis = slice_axis(spacing_mm)
    volume = np.moveaxis(array, axis, 0)
    row_mm, column_mm = (mm for a, mm in enumerate(spacing_mm) if a != axis)
    spread = float(np.std(volume, dtype=np.float64))
    if spread == 0:
        raise ValueError(
            f"{called} is blank: all its voxels are {float(array.flat[0]):g}. Replace it, or leave the case out"
        )
    spreads = np.array([np.std(one, dtype=np.float64) for one in volume])
    shown = np.flatnonzero(spreads > LEAST_SPREAD * spread)
    if not shown.size:
        raise NothingToLearn(f"each slice of {called} has one value")
    chosen = np.sort(rng.permutation(shown)[: HELD_OUT_SLICES if held_out else SLICES])
    return [
        Slice(_content(volume[k], spread, HELD_OUT_PIXELS if held_out else None), (row_mm, column_mm), channel, spread)
        for k in chosen
    ]


def _content(values: np.ndarray, spread: float, most: int | None) -> np.ndarray:
    """The rows and columns of a slice in which something is shown, or the middle ones of them if there is a limit."""
    values = np.asarray(values, np.float32)
    where = []
    for across in (1, 0):
        lines = np.flatnonzero(values.std(axis=across) > 0.05 * spread)
        first, last = (int(lines[0]), int(lines[-1]) + 1) if lines.size else (0, values.shape[1 - across])
        if most is not None and last - first > most:
            first = (first + last - most) // 2
            last = first + most
        where.append(slice(first, last))
    return values[tuple(where)].copy()  # of its own, because the image's memory is freed
