// Outlines of organs on slices of a label map. Pure functions: no page, no NiiVue.
"use strict";

// Plane -> the voxel axes that run across and along a slice, and the one it cuts (0 = x, 1 = y, 2 = z), numbered as in NiiVue.
const PLANES = [
  { name: "axial", u: 0, v: 1, cut: 2 },
  { name: "coronal", u: 0, v: 2, cut: 1 },
  { name: "sagittal", u: 1, v: 2, cut: 0 },
];
const LETTERS = ["LR", "PA", "IS"]; // where each axis of an RAS volume comes from and runs to

// Box [first, last] per axis and the voxel of each organ to look at: on the axial slice that shows most of it, the organ's
// voxel nearest to its centre. organs: organ -> its label values. Returns organ -> { box, centre }, only those with a voxel.
function findOrgans(labels, size, organs) {
  const organsOf = Array.from({ length: 256 }, () => []);
  for (const [name, values] of Object.entries(organs)) for (const value of values) organsOf[value].push(name);
  const found = {};
  const [nx, ny, nz] = size;
  for (let z = 0, i = 0; z < nz; z++) {
    for (let y = 0; y < ny; y++) {
      for (let x = 0; x < nx; x++, i++) {
        for (const name of organsOf[labels[i]]) {
          const organ = (found[name] ??= { box: [[x, x], [y, y], [z, z]], slices: {} });
          [x, y, z].forEach((p, axis) => {
            organ.box[axis][0] = Math.min(organ.box[axis][0], p);
            organ.box[axis][1] = Math.max(organ.box[axis][1], p);
          });
          (organ.slices[z] ??= []).push([x, y]);
        }
      }
    }
  }
  for (const organ of Object.values(found)) {
    const [z, voxels] = Object.entries(organ.slices).reduce((a, b) => (b[1].length > a[1].length ? b : a));
    const mean = [0, 1].map((axis) => voxels.reduce((sum, p) => sum + p[axis], 0) / voxels.length);
    const away = (p) => (p[0] - mean[0]) ** 2 + (p[1] - mean[1]) ** 2;
    organ.centre = [...voxels.reduce((a, b) => (away(b) < away(a) ? b : a)), Number(z)];
    delete organ.slices;
  }
  return found;
}

// Closed lines around the voxels for which inside(u, v) holds, through the middle between inner and outer voxel centres.
// inside is asked from first - 1 to last + 1 along u and v. Returns lists of [u, v].
function traceOutline(inside, [u0, u1], [v0, v1]) {
  // Marching squares. Points are named by twice their coordinates; each line has the inside on its left, so every point
  // has one successor. Inner voxels that touch at a corner only are kept apart.
  const successor = new Map();
  const point = (u, v) => `${u},${v}`;
  for (let v = v0 - 1; v <= v1; v++) {
    for (let u = u0 - 1; u <= u1; u++) {
      const top = point(2 * u + 1, 2 * v), right = point(2 * u + 2, 2 * v + 1);
      const bottom = point(2 * u + 1, 2 * v + 2), left = point(2 * u, 2 * v + 1);
      const corners = inside(u, v) + 2 * inside(u + 1, v) + 4 * inside(u + 1, v + 1) + 8 * inside(u, v + 1);
      const lines = [
        [], [left, top], [top, right], [left, right], [right, bottom], [left, top, right, bottom], [top, bottom],
        [left, bottom], [bottom, left], [bottom, top], [top, right, bottom, left], [bottom, right], [right, left],
        [right, top], [top, left], [],
      ][corners];
      for (let i = 0; i < lines.length; i += 2) successor.set(lines[i], lines[i + 1]);
    }
  }
  const outlines = [];
  while (successor.size) {
    const outline = [];
    let [at] = successor.keys();
    while (successor.has(at)) {
      outline.push(at.split(",").map((n) => n / 2));
      const next = successor.get(at);
      successor.delete(at);
      at = next;
    }
    outlines.push(outline);
  }
  return outlines;
}

// Outlines of one organ on the slice of a plane, in voxel indices (u, v); box as from findOrgans.
function organOutlines(labels, size, values, box, plane, index) {
  if (!box || index < box[plane.cut][0] || index > box[plane.cut][1]) return [];
  const stride = [1, size[0], size[0] * size[1]];
  const inside = (u, v) =>
    Number(
      u >= 0 && v >= 0 && u < size[plane.u] && v < size[plane.v] &&
        values.includes(labels[u * stride[plane.u] + v * stride[plane.v] + index * stride[plane.cut]]),
    );
  return traceOutline(inside, box[plane.u], box[plane.v]);
}
