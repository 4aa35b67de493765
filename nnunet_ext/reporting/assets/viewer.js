// The viewer of one case: NiiVue draws slices and surfaces, a second canvas above it contours, marks and crosshair.
"use strict";

const SURFACE_OPACITY_REFERENCE = 0.5;
const BACKGROUND = [0.05, 0.06, 0.07, 1];

// Places of the planes on the canvas, as NiiVue's layouts: [left, top, width, height] in parts of it.
const LAYOUTS = {
  all: [
    { sliceType: 0, position: [0, 0, 0.6, 1] },
    { sliceType: 1, position: [0.6, 0, 0.4, 0.5] },
    { sliceType: 2, position: [0.6, 0.5, 0.4, 0.5] },
  ],
  0: [{ sliceType: 0, position: [0, 0, 1, 1] }],
  1: [{ sliceType: 1, position: [0, 0, 1, 1] }],
  2: [{ sliceType: 2, position: [0, 0, 1, 1] }],
};

async function gunzip(element) {
  const characters = atob(element.textContent);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// What report_volumes.pack_case packed: { header, channels: [bytes], maps: {name: {labels: bytes, organs: {organ: values}}},
// surfaces: [{map, organ, points, triangles}] }.
function unpackCase(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const take = (n) => buffer.slice(at, (at += n));
  const nVoxels = header.size[0] * header.size[1] * header.size[2];
  const channels = header.channels.map(() => new Uint8Array(take(nVoxels)));
  const maps = Object.fromEntries(header.maps.map(({ name, organs }) => [name, { labels: new Uint8Array(take(nVoxels)), organs }]));
  const surfaces = header.surfaces.map(({ map, organ, n_vertices, n_triangles }) => {
    const steps = new Int16Array(take(6 * n_vertices));
    const points = Float32Array.from(steps, (s, i) => s * header.vertex_step_mm + header.centre_mm[i % 3]);
    return { map, organ, points, triangles: new Uint32Array(take(12 * n_triangles)) };
  });
  return { header, channels, maps, surfaces };
}

class Viewer {
  // organs: [{name, colour}]; onMove() after every redraw of the slices.
  constructor(organs, onMove) {
    this.organs = organs;
    this.onMove = onMove;
    this.planesCanvas = document.getElementById("slices");
    this.lines = document.getElementById("lines");
    this.show = { reference: true, prediction: true };
    this.hidden = new Set(); // organs
    this.plane = 0; // under the mouse
  }

  async start(niivueElement) {
    if (!window.niivue) {
      const script = document.createElement("script");
      script.textContent = new TextDecoder().decode(await gunzip(niivueElement));
      document.head.append(script);
    }
    const { Niivue, DRAG_MODE, SLICE_TYPE } = window.niivue;
    const common = { dragAndDropEnabled: false, loadingText: "", logLevel: "error", backColor: BACKGROUND, isAntiAlias: true };
    this.slices = new Niivue({
      ...common,
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      crosshairWidth: 0, // drawn with the contours
      isOrientationTextVisible: false, // so are the letters
      mouseEventConfig: {
        leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.pan },
        rightButton: DRAG_MODE.windowing,
        centerButton: DRAG_MODE.pan,
      },
    });
    this.space = new Niivue({ ...common, sliceType: SLICE_TYPE.RENDER, isOrientCube: true });
    this.slices.customLayout = LAYOUTS.all;
    const draw = this.slices.drawScene.bind(this.slices);
    this.slices.drawScene = () => {
      draw();
      this.drawLines();
    };
    this.planesCanvas.addEventListener("mousemove", (event) => {
      const tile = this.tileAt(event);
      if (tile) this.plane = tile.axCorSag;
    });
    // Before NiiVue sees them: its own double click resets the window, its wheel cannot zoom.
    const box = this.planesCanvas.parentElement;
    box.addEventListener("dblclick", (event) => (event.stopPropagation(), this.enlarge(this.tileAt(event))), true);
    box.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        event.stopPropagation();
        this.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2);
      },
      { capture: true, passive: false },
    );
    await this.slices.attachToCanvas(this.planesCanvas);
    await this.space.attachToCanvas(document.getElementById("surfaces"));
  }

  // Show a case in place of the one before. prediction: the name of its label map.
  async open(packed, prediction) {
    Object.assign(this, packed, { prediction, outlines: new Map(), channel: 0 });
    this.found = {};
    for (const [name, { labels, organs }] of Object.entries(this.maps)) this.found[name] = findOrgans(labels, this.header.size, organs);
    const { NVImage, NVMesh } = window.niivue;
    const { size, spacing_mm, affine } = this.header;
    const nifti = NVImage.createNiftiArray(size, spacing_mm, affine.flat(), 2, new Uint8Array(this.channels[0]));
    this.windows = this.header.channels.map((channel) => [...channel.window]);
    const volume = await NVImage.new(nifti.buffer, "image.nii", "gray", 1, null, ...this.windows[0]);
    while (this.slices.volumes.length) this.slices.removeVolume(this.slices.volumes[0]);
    this.slices.addVolume(volume);
    this.reset();

    for (const mesh of [...this.space.meshes]) this.space.removeMesh(mesh);
    for (const { map, organ, points, triangles } of this.surfaces) {
      const hex = this.organs.find(({ name }) => name === organ).colour;
      const colour = map === "reference" ? [235, 235, 235] : [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
      const opacity = map === "reference" ? SURFACE_OPACITY_REFERENCE : 1;
      const mesh = new NVMesh(points, triangles, `${map}:${organ}`, new Uint8Array([...colour, 255]), opacity, true, this.space.gl);
      this.space.addMesh(mesh);
    }
    this.space.setRenderAzimuthElevation(160, 20); // from the front and a little from above
    this.update();
  }

  close() {
    while (this.slices?.volumes.length) this.slices.removeVolume(this.slices.volumes[0]);
    for (const mesh of [...(this.space?.meshes ?? [])]) this.space.removeMesh(mesh);
    for (const key of ["caseName", "header", "channels", "maps", "surfaces", "found", "outlines"]) delete this[key];
  }

  // The label maps with contours on: reference below, prediction above.
  shown() {
    const maps = { reference: "reference", prediction: this.prediction };
    return ["reference", "prediction"].filter((kind) => this.show[kind] && this.maps[maps[kind]]).map((kind) => maps[kind]);
  }

  // After what is shown changed.
  update() {
    const shown = this.shown();
    for (const mesh of this.space.meshes) {
      const [map, organ] = [mesh.name.slice(0, mesh.name.lastIndexOf(":")), mesh.name.slice(mesh.name.lastIndexOf(":") + 1)];
      mesh.visible = shown.includes(map) && !this.hidden.has(organ);
    }
    this.space.drawScene();
    this.slices.drawScene();
  }

  setChannel(i) {
    const volume = this.slices.volumes[0];
    this.windows[this.channel] = [volume.cal_min, volume.cal_max];
    this.channel = i;
    volume.img.set(this.channels[i]);
    [volume.cal_min, volume.cal_max] = this.windows[i];
    this.slices.updateGLVolume();
  }

  reset() {
    this.windows = this.header.channels.map((channel) => [...channel.window]);
    [this.slices.volumes[0].cal_min, this.slices.volumes[0].cal_max] = this.windows[this.channel];
    this.slices.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.slices.customLayout = LAYOUTS.all;
    this.slices.updateGLVolume();
  }

  enlarge(tile) {
    if (!tile) return;
    this.slices.setCustomLayout(this.slices.customLayout === LAYOUTS.all ? LAYOUTS[tile.axCorSag] : LAYOUTS.all);
  }

  // Zoom about the crosshair.
  zoom(factor) {
    const pan = this.slices.scene.pan2Dxyzmm;
    const zoom = Math.min(Math.max(pan[3] * factor, 0.5), 20);
    const mm = this.slices.frac2mm(this.slices.scene.crosshairPos, 0, false);
    for (let axis = 0; axis < 3; axis++) pan[axis] += mm[axis] * (1 / zoom - 1 / pan[3]) * pan[3];
    pan[3] = zoom;
    this.slices.drawScene();
  }

  scroll(steps) {
    const move = [0, 0, 0];
    move[PLANES[this.plane].cut] = steps;
    this.slices.moveCrosshairInVox(...move);
  }

  // Crosshair to an organ: where the reference has it, else the prediction.
  goTo(organ) {
    const place = this.found.reference?.[organ] ?? this.found[this.prediction]?.[organ];
    if (!place) return;
    this.slices.scene.crosshairPos = place.centre.map((voxel, axis) => (voxel + 0.5) / this.header.size[axis]);
    this.slices.drawScene();
  }

  // Voxel (x, y, z) under the crosshair.
  voxel() {
    return [...this.slices.scene.crosshairPos].map((f, axis) =>
      Math.min(Math.max(Math.floor(f * this.header.size[axis]), 0), this.header.size[axis] - 1),
    );
  }

  // World position of the crosshair, RAS in mm.
  position() {
    const voxel = this.voxel();
    return this.header.affine.slice(0, 3).map((row) => row[3] + voxel.reduce((sum, v, axis) => sum + row[axis] * v, 0));
  }

  tileAt(event) {
    const box = this.planesCanvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.planesCanvas.width;
    const y = ((event.clientY - box.top) / box.height) * this.planesCanvas.height;
    return this.slices.screenSlices.find(({ leftTopWidthHeight: [l, t, w, h] }) => x >= l && y >= t && x < l + w && y < t + h);
  }

  // Matrix from voxel indices (u, v) of a tile's plane to canvas pixels. NiiVue says which place of the volume is where.
  toCanvas(tile, number) {
    const plane = PLANES[tile.axCorSag];
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const at = [0.25, 0.75].map((part) => ({ x: left + part * width, y: top + part * height }));
    const place = at.map(({ x, y }) => this.slices.screenXY2TextureFrac(x, y, number, false));
    const scale = (axis, key) => {
      const n = this.header.size[axis];
      const perVoxel = (at[1][key] - at[0][key]) / ((place[1][axis] - place[0][axis]) * n);
      return [perVoxel, at[0][key] - (place[0][axis] * n - 0.5) * perVoxel];
    };
    const [a, e] = scale(plane.u, "x");
    const [d, f] = scale(plane.v, "y");
    return new DOMMatrix([a, 0, 0, d, e, f]);
  }

  outline(map, organ, plane, index) {
    const key = [map, organ, plane.name, index].join("|");
    if (!this.outlines.has(key)) {
      const path = new Path2D();
      const { labels, organs } = this.maps[map];
      for (const points of organOutlines(labels, this.header.size, organs[organ], this.found[map][organ]?.box, plane, index)) {
        points.forEach(([u, v], i) => (i ? path.lineTo(u, v) : path.moveTo(u, v)));
        path.closePath();
      }
      this.outlines.set(key, path);
    }
    return this.outlines.get(key);
  }

  drawLines() {
    const { width, height } = this.planesCanvas;
    Object.assign(this.lines, { width, height }); // also clears it
    if (!this.header || !this.slices.volumes.length) return;
    const context = this.lines.getContext("2d");
    const pixels = width / this.planesCanvas.clientWidth; // per CSS pixel
    const voxel = this.voxel();
    this.slices.screenSlices.forEach((tile, number) => {
      const plane = PLANES[tile.axCorSag];
      const matrix = this.toCanvas(tile, number);
      context.save();
      context.beginPath();
      context.rect(...tile.leftTopWidthHeight);
      context.clip();
      for (const map of this.shown()) {
        for (const organ of this.organs.filter(({ name }) => !this.hidden.has(name))) {
          const path = new Path2D();
          path.addPath(this.outline(map, organ.name, plane, voxel[plane.cut]), matrix);
          context.lineJoin = "round";
          if (map !== "reference") {
            context.setLineDash([]);
            context.strokeStyle = "rgba(0, 0, 0, 0.75)"; // so a dashed line shows on the solid one below it
            context.lineWidth = 3.2 * pixels;
            context.stroke(path);
            if (this.shown().length > 1) context.setLineDash([5 * pixels, 3.5 * pixels]);
          }
          context.strokeStyle = organ.colour;
          context.lineWidth = (map === "reference" ? 2.2 : 1.7) * pixels;
          context.stroke(path);
        }
      }
      context.setLineDash([]);
      this.drawMarks(context, tile, plane, matrix, voxel, pixels);
      context.restore();
    });
    this.onMove();
  }

  // Crosshair with a gap, patient directions at the edges, a scale bar.
  drawMarks(context, tile, plane, matrix, voxel, pixels) {
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const cross = matrix.transformPoint({ x: voxel[plane.u], y: voxel[plane.v] });
    const gap = 14 * pixels;
    context.strokeStyle = "rgba(255, 255, 255, 0.55)";
    context.lineWidth = pixels;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [
      [left, cross.y, cross.x - gap, cross.y],
      [cross.x + gap, cross.y, left + width, cross.y],
      [cross.x, top, cross.x, cross.y - gap],
      [cross.x, cross.y + gap, cross.x, top + height],
    ]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();

    const text = (words, x, y, align, baseline, size) => {
      context.font = `600 ${size * pixels}px system-ui, sans-serif`;
      Object.assign(context, { textAlign: align, textBaseline: baseline, lineJoin: "round" });
      context.lineWidth = 3 * pixels;
      context.strokeStyle = "black";
      context.strokeText(words, x, y);
      context.fillStyle = "white";
      context.fillText(words, x, y);
    };
    const edge = 7 * pixels;
    const [leftLetter, rightLetter] = matrix.a > 0 ? LETTERS[plane.u] : [...LETTERS[plane.u]].reverse();
    const [topLetter, bottomLetter] = matrix.d > 0 ? LETTERS[plane.v] : [...LETTERS[plane.v]].reverse();
    text(leftLetter, left + edge, top + height / 2, "left", "middle", 16);
    text(rightLetter, left + width - edge, top + height / 2, "right", "middle", 16);
    text(topLetter, left + width / 2, top + edge, "center", "top", 16);
    text(bottomLetter, left + width / 2, top + height - edge, "center", "bottom", 16);
    text(this.planeLabel(plane), left + edge, top + edge, "left", "top", 13);

    const pixelsPerMm = Math.abs(matrix.a) / this.header.spacing_mm[plane.u];
    const barMm = [50, 20, 10, 5, 2, 1].find((mm) => mm * pixelsPerMm < 0.25 * width) ?? 1;
    const y = top + height - edge;
    context.strokeStyle = "white";
    context.lineWidth = 2 * pixels;
    context.beginPath();
    context.moveTo(left + edge, y);
    context.lineTo(left + edge + barMm * pixelsPerMm, y);
    context.stroke();
    text(`${barMm} mm`, left + edge, y - 3 * pixels, "left", "bottom", 12);
  }

  planeLabel(plane) {
    const mm = this.position()[plane.cut];
    return `${t(plane.name)}  ${LETTERS[plane.cut][mm < 0 ? 0 : 1]} ${Math.abs(mm).toFixed(1)} mm`;
  }
}
