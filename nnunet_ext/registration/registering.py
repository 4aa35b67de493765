"""MR brought onto CT: rigid, then elastic (B-spline), each kept only where it is better than what it started from.

Transforms map points of the fixed image (the CT) to points of the moving image (an MR), LPS, mm: what `sitk.Resample`
takes to bring the moving image onto the fixed grid. Similarity is mutual information inside the head, or inside the part
of a trunk that the moving images show; couch and fixation mask, which only a CT shows, are taken out of it first. The
optimisers are SimpleITK's, run on one thread per image so that the same input gives the same transform (to 0.001 mm: N4
adds up on several threads).

How a level is kept. Rigid against the header's alignment: the larger mutual information over voxels that both see.
Elastic against rigid: a fifth of the head, in blocks, is hidden from the elastic fit, and the fit has to raise the
mutual information there; its Jacobian determinant must stay within `JACOBIAN_RANGE`. Images that show the head in
one position (T1 and T2 of one session) share one transform: each fit is judged on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.checks import check_images
from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.result import ChannelRegistration, RegistrationResult
from nnunet_ext.registration.rigid import best_rigid, links_between
from nnunet_ext.registration.selection import register_group
from nnunet_ext.registration.volumes import Source, Target


def register(
    fixed: sitk.Image,
    moving: Mapping[str, sitk.Image],
    *,
    fixed_is_ct: bool = True,
    options: RegistrationOptions | None = None,
    bias_corrected: bool = False,
    fixed_body: np.ndarray | None = None,
    bodies: Mapping[str, np.ndarray] | None = None,
    same_frame: Collection[Collection[str]] | None = None,
) -> RegistrationResult:
    """Transforms that bring each moving image onto the fixed one.

    Args:
        fixed: The CT, in HU or not; couch and fixation mask may be in it. Any orientation, oblique too.
        moving: Name -> MR on a grid of its own.
        fixed_is_ct: False where the fixed image is an MR.
        options: See `RegistrationOptions`.
        bias_corrected: The MR images went through N4 already. Otherwise a copy does.
        fixed_body: The fixed image's body without couch and mask, bool `(Z, Y, X)` on its canonical grid. Found if None.
        bodies: Name of a moving image -> its body, bool `(Z, Y, X)` on its canonical grid. Found where it is not given.
        same_frame: Groups of names of moving images that share a frame of reference (DICOM); only these may share one
            transform. None where it is not known: then all may. Either way they have to show the head in one position.

    Returns:
        Transforms and, per image, these numbers: `mutual_information` (nats, 32 x 32 bins, voxels inside the head and
        the field of view of every candidate) for `header`, `rigid` and `elastic`; `hidden_mutual_information`, the
        same over the blocks hidden from the elastic fit; `edge_overlap`, Dice (0 to 1) of the voxels of
        about 3 mm that are edges, the strongest tenth of gradients below the skin, in the fixed and in the moving image
        (0.1 by chance; 0.3 to 0.4 for CT and MR that lie truly together);
        `jacobian`, lowest and highest determinant of the kept transform inside the head; `moved_mm`, mean and largest
        distance between header and kept alignment inside the head; `overlap`, the share of the head that the moving
        image's field of view holds.

    Raises:
        ValueError: If there is no moving image, an image holds nothing, no body is in it, or images cannot be
            brought to overlap.
    """
    started = time.perf_counter()
    options = RegistrationOptions() if options is None else options
    if not moving:
        raise ValueError("no moving image: give at least one image to register")
    check_images({"the fixed image": fixed, **moving}, copies=True)
    target = Target.of(
        to_canonical(fixed),
        is_ct=fixed_is_ct,
        bias_corrected=bias_corrected,
        body=fixed_body,
        moving=moving.values(),
    )
    with ThreadPoolExecutor(2) as pool:  # ITK leaves Python's lock, so two images use two cores
        found_bodies = bodies or {}
        made = pool.map(lambda m: Source.of(m[0], m[1], bias_corrected, found_bodies.get(m[0])), moving.items())
        sources = dict(zip(moving, made, strict=True))
        rigid = dict(zip(moving, pool.map(lambda s: best_rigid(target, s, options), sources.values()), strict=True))
        found: dict[str, ChannelRegistration] = {}
        together: list[list[str]] = []
        for names in _frames(moving, same_frame) if options.together else [[name] for name in moving]:
            links = links_between({name: sources[name] for name in names}, options)
            together += [list(links)] if len(links) > 1 else []
            for group in [list(links), *([name] for name in names if name not in links)]:
                members = {
                    name: (sources[name], links.get(name, sitk.Transform(3, sitk.sitkIdentity))) for name in group
                }
                found |= register_group(target, members, {name: rigid[name] for name in group}, options, pool)
    return RegistrationResult({name: found[name] for name in moving}, together, options, time.perf_counter() - started)


def _frames(moving: Collection[str], same_frame: Collection[Collection[str]] | None) -> list[list[str]]:
    """Names in groups that may share one transform, each name once, in the order given."""
    if same_frame is None:
        return [list(moving)]
    groups = [[name for name in moving if name in frame] for frame in same_frame]
    grouped = [name for group in groups for name in group]
    if len(set(grouped)) != len(grouped):
        raise ValueError(f"same_frame {same_frame}: an image has one frame of reference, not two")
    return [group for group in groups if group] + [[name] for name in moving if name not in grouped]
