"""Solids that a phantom is built from. Each is a signed distance in mm, negative inside, and the box it lies in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

#: Edge of a shape without bounds on that side, in mm; larger than any head.
FAR_MM = 1e3
#: Three coordinates, factors or a direction, as `(x, y, z)`.
Vector = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Shape:
    """A solid, as its signed distance function and the axis-aligned box that holds it.

    Attributes:
        distance_mm: Maps points `(..., 3)` as `(x, y, z)` in mm to signed distances `(...)` in mm, negative inside.
            Of shapes other than spheres and capsules it is a first-order estimate, good near the surface.
        low_mm: Lower corner of the box, `(x, y, z)`.
        high_mm: Upper corner of the box.
        base: The solid that `grown` made this one from, so that both can be evaluated at once.
        margin_mm: By how much it was grown.
    """

    distance_mm: Callable[[np.ndarray], np.ndarray]
    low_mm: np.ndarray
    high_mm: np.ndarray
    base: Shape | None = None
    margin_mm: float = 0.0

    def grown(self, margin_mm: float) -> Shape:
        """The same solid with its surface moved outwards by `margin_mm`, inwards if it is negative."""
        low, high = self.low_mm - margin_mm, self.high_mm + margin_mm
        return Shape(lambda p: self.distance_mm(p) - margin_mm, low, high, self, margin_mm)

    def scaled(self, factors: Vector) -> Shape:
        """The solid stretched about the origin by one factor per axis. Distances stay right to first order."""
        s = np.asarray(factors, np.float32)
        return Shape(lambda p: self.distance_mm(p / s) * float(s.mean()), self.low_mm * s, self.high_mm * s)

    def mirrored(self) -> Shape:
        """The solid on the other side of the plane x = 0."""
        flip = np.array([-1, 1, 1], np.float32)
        return Shape(
            lambda p: self.distance_mm(p * flip),
            np.array([-self.high_mm[0], *self.low_mm[1:]]),
            np.array([-self.low_mm[0], *self.high_mm[1:]]),
        )


def vector(values: Vector | Sequence[Vector]) -> np.ndarray:
    """Float32 array of coordinates, or of one row per point."""
    return np.array(values, np.float32)


def _norm(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("...i,...i->...", v, v))


def unit(v: Vector) -> np.ndarray:
    """The vector divided by its length, float32."""
    exact = np.asarray(v, np.float64)
    return (exact / np.linalg.norm(exact)).astype(np.float32)


def sphere(center_mm: Vector, radius_mm: float) -> Shape:
    """A ball."""
    c = np.asarray(center_mm, np.float32)
    return Shape(lambda p: _norm(p - c) - np.float32(radius_mm), c - radius_mm, c + radius_mm)


def ellipsoid(center_mm: Vector, radii_mm: Vector) -> Shape:
    """An axis-aligned ellipsoid given by its semi-axes."""
    c, r = np.asarray(center_mm, np.float32), np.asarray(radii_mm, np.float32)

    def distance(p: np.ndarray) -> np.ndarray:
        # Axis by axis: sums over a last axis of three take several times as long.
        k0, k1 = np.float32(0), np.float32(0)
        for axis in range(3):
            q = (p[..., axis] - c[axis]) / r[axis]
            k0, k1 = k0 + q * q, k1 + np.square(q / r[axis])
        k0 = np.sqrt(k0)
        return k0 * (k0 - 1) / np.maximum(np.sqrt(k1), np.float32(1e-6))

    return Shape(distance, c - r, c + r)


def capsule(a_mm: Vector, b_mm: Vector, radius_a_mm: float, radius_b_mm: float | None = None) -> Shape:
    """A rod with round ends from `a` to `b`, its radius changing linearly."""
    a, b = np.asarray(a_mm, np.float32), np.asarray(b_mm, np.float32)
    ra = np.float32(radius_a_mm)
    rb = ra if radius_b_mm is None else np.float32(radius_b_mm)
    ba = b - a
    length2 = np.float32(ba @ ba)

    def distance(p: np.ndarray) -> np.ndarray:
        x, y, z = (p[..., axis] - a[axis] for axis in range(3))
        h = np.clip((x * ba[0] + y * ba[1] + z * ba[2]) / length2, 0, 1)
        to_rod2 = np.square(x - h * ba[0]) + np.square(y - h * ba[1]) + np.square(z - h * ba[2])
        return np.sqrt(to_rod2) - (ra + (rb - ra) * h)

    r = max(ra, rb)
    return Shape(distance, np.minimum(a, b) - r, np.maximum(a, b) + r)


def tube(points_mm: np.ndarray, radius_mm: float | Vector) -> Shape:
    """A tube around a polyline.

    Args:
        points_mm: Corners of the polyline, `(N, 3)`.
        radius_mm: One radius, or one per corner.
    """
    points = np.asarray(points_mm, np.float32)
    radii = np.broadcast_to(np.asarray(radius_mm, np.float32), len(points))
    starts, rods = points[:-1], np.diff(points, axis=0)
    length2 = np.einsum("ni,ni->n", rods, rods)
    a = starts - points[0]
    shift, start2, widening = np.einsum("ni,ni->n", a, rods), np.einsum("ni,ni->n", a, a), np.diff(radii)

    def distance(p: np.ndarray) -> np.ndarray:
        # |p - a|^2 written out, so that the products with p are one matrix product for all rods. The frame's origin
        # is taken near the tube: float32 then keeps squared distances to 1e-3 mm^2.
        q = p - points[0]
        along, from_start = q @ rods.T, q @ a.T
        from_origin2 = np.einsum("...i,...i->...", q, q)
        lowest = np.full(along.shape[:-1], np.inf, along.dtype)
        for n in range(len(rods)):  # one after the other: smaller arrays, and no minimum over a short last axis
            along_n = along[..., n] - shift[n]
            h = np.clip(along_n / length2[n], 0, 1)
            d2 = from_origin2 - 2 * from_start[..., n] + start2[n] + h * (h * length2[n] - 2 * along_n)
            d = np.sqrt(np.maximum(d2, 0)) - (radii[n] + widening[n] * h)
            lowest = np.minimum(lowest, d)
        return lowest

    reach = radii.max()
    return Shape(distance, points.min(axis=0) - reach, points.max(axis=0) + reach)


def flat_tube(points_mm: np.ndarray, half_thickness_mm: float, wide: Vector, ratio: float) -> Shape:
    """A ribbon around a polyline, `ratio` times wider along the unit vector `wide` than it is thick."""
    w = unit(wide)
    squeeze = np.float32(1 - 1 / ratio)

    def squeezed(p: np.ndarray) -> np.ndarray:
        return p - squeeze * (p @ w)[..., None] * w

    inner = tube(squeezed(np.asarray(points_mm, np.float32)), half_thickness_mm)
    reach = half_thickness_mm * ratio
    low, high = np.min(points_mm, axis=0) - reach, np.max(points_mm, axis=0) + reach
    return Shape(lambda p: inner.distance_mm(squeezed(p)), low, high)


def bent_tube(points_mm: list[list[float]], radius_mm: float) -> Shape:
    """A tube of one radius around a smooth curve through the points."""
    return tube(curve(points_mm, 9), radius_mm)


def biconvex(center_mm: Vector, axis: Vector, *, radius_mm: float, front_mm: float, back_mm: float) -> Shape:
    """A lens of two spherical caps on one equator.

    Args:
        center_mm: Centre of the equator.
        axis: Unit vector to the front.
        radius_mm: Radius of the equator.
        front_mm: Height of the front cap.
        back_mm: Height of the back cap.
    """
    c, n = np.asarray(center_mm, np.float32), unit(axis)
    curvature_front_mm = (radius_mm**2 + front_mm**2) / (2 * front_mm)
    curvature_back_mm = (radius_mm**2 + back_mm**2) / (2 * back_mm)
    # The front surface belongs to a ball whose centre lies behind the equator, and the other way round.
    front = sphere(c - (curvature_front_mm - front_mm) * n, curvature_front_mm)
    back = sphere(c + (curvature_back_mm - back_mm) * n, curvature_back_mm)
    return Shape(lambda p: np.maximum(front.distance_mm(p), back.distance_mm(p)), c - radius_mm, c + radius_mm)


def biconvex_volume_ml(*, radius_mm: float, front_mm: float, back_mm: float) -> float:
    """Volume of `biconvex` in mL. Each of the two spherical caps has pi h (3 a^2 + h^2) / 6."""
    return sum(np.pi * h * (3 * radius_mm**2 + h**2) / 6 for h in (front_mm, back_mm)) / 1000


def union(*shapes: Shape, blend_mm: float = 0.0) -> Shape:
    """Everything inside any of the shapes. With `blend_mm` the creases between them are filled smoothly."""

    def distance(p: np.ndarray) -> np.ndarray:
        d = shapes[0].distance_mm(p)
        for shape in shapes[1:]:
            d = smooth_minimum(d, shape.distance_mm(p), blend_mm)
        return d

    low = np.min([s.low_mm for s in shapes], axis=0) - blend_mm / 4
    return Shape(distance, low, np.max([s.high_mm for s in shapes], axis=0) + blend_mm / 4)


def intersection(shape: Shape, *others: Shape) -> Shape:
    """Everything inside all of the shapes. The box is that of the first."""

    def distance(p: np.ndarray) -> np.ndarray:
        d = shape.distance_mm(p)
        for other in others:
            d = np.maximum(d, other.distance_mm(p))
        return d

    return Shape(distance, shape.low_mm, shape.high_mm)


def half_space(point_mm: Vector, outwards: Vector) -> Shape:
    """Everything on one side of a plane through `point_mm`. `outwards` points away from the solid."""
    c, n = np.asarray(point_mm, np.float32), unit(outwards)
    far = np.full(3, FAR_MM)
    return Shape(lambda p: (p - c) @ n, -far, far)


def both_sides(shape: Shape) -> Shape:
    """A solid on the left side together with its mirror image. Of the two, the one on a point's side is nearer to it."""
    right = shape.mirrored()
    low, high = np.minimum(shape.low_mm, right.low_mm), np.maximum(shape.high_mm, right.high_mm)

    def distance(p: np.ndarray) -> np.ndarray:
        folded = p.copy()
        np.abs(p[..., 0], out=folded[..., 0])
        return shape.distance_mm(folded)

    return Shape(distance, low, high)


def coordinate(index: int) -> Shape:
    """The coordinate itself as a shape, for layers with a regular pattern. It is no solid."""
    far = np.full(3, FAR_MM)
    return Shape(lambda p: p[..., index], -far, far)


def field(function: Callable[[np.ndarray], np.ndarray]) -> Shape:
    """A function of space as a shape, such as waves. It is no solid."""
    far = np.full(3, FAR_MM)
    return Shape(function, -far, far)


def smooth_minimum(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Minimum of two distances, rounded over `blend_mm` by a polynomial. With 0 it is the plain minimum."""
    if blend_mm <= 0:
        return np.minimum(a, b)
    h = np.maximum(blend_mm - np.abs(a - b), 0) / np.float32(blend_mm)
    return np.minimum(a, b) - h * h * np.float32(blend_mm / 4)


def curve(points_mm: Sequence[Vector] | np.ndarray, n_points: int) -> np.ndarray:
    """A smooth curve through the points (natural cubic spline over chord length), as `(n_points, 3)` float32."""
    points = np.asarray(points_mm, np.float64)
    chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    return CubicSpline(chord, points, bc_type="natural")(np.linspace(0, chord[-1], n_points)).astype(np.float32)
