// The page: turning, zooming, switches, signs and labels over what raycast.js draws.
"use strict";

const scene = JSON.parse(document.getElementById("scene").textContent);
const canvas = document.getElementById("view"), context = canvas.getContext("2d");
const said = document.getElementById("said");
const BASE = 1.5 * scene.radius; // half the width of the picture at zoom 1
const state = { looking: scene.view, zoom: 1, moving: false, hidden: new Set() };
let raster = null, queued = false, settle = 0, hovered = -1;

const box = (name) => document.getElementById(name).checked;

function visible() {
  const named = (names) => names.some((name) => !state.hidden.has(name));
  return {
    axes: box("axes") ? scene.axes.filter((axis) => named(axis.names)) : [],
    planes: box("planes") ? scene.planes.filter((plane) => named([plane.name])) : [],
    inversion: scene.inversion && !state.hidden.has("i") && box("axes"),
    orbits: box("orbits"),
  };
}

// ---- drawing ----

function draw() {
  queued = false;
  const shown = visible(), width = canvas.clientWidth || 600, ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = canvas.height = Math.round(width * ratio);
  // coarse while it moves, smooth when it rests
  const size = Math.min(state.moving ? 560 : 1400, Math.round(width * (state.moving ? 1 : Math.max(ratio, 1.6))));
  const extent = BASE / state.zoom;
  raster = render(scene, shown, state.looking, size, extent);
  const image = document.createElement("canvas");
  image.width = image.height = size;
  image.getContext("2d").putImageData(new ImageData(raster.bytes, size, size), 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  overlay(shown, (v) => [(v[0] / extent + 1) * canvas.width / 2, (1 - v[1] / extent) * canvas.width / 2], Math.max(width / 600, 0.75) * ratio);
}

function redraw(moving = false) {
  state.moving = moving;
  clearTimeout(settle);
  if (moving) settle = setTimeout(() => redraw(false), 160);
  if (!queued) {
    queued = true;
    requestAnimationFrame(draw);
  }
}

function overlay(shown, to, unitLength) {
  const taken = [], labels = box("labels"), few = shown.axes.length <= scene.style.many, named = shown.axes.length <= scene.style.named, perPixel = 2 * raster.extent / raster.size;
  const size = (few ? 11 : 8) * unitLength;
  for (const axis of shown.axes) {
    const d = turn(state.looking, axis.direction);
    const up = d[1] < -1e-9 || (Math.abs(d[1]) <= 1e-9 && d[0] < 0) ? d.map((v) => -v) : d;
    for (const end of [up, up.map((v) => -v)]) {
      const tip = end.map((v) => v * scene.style.axis_length * scene.radius);
      taken.push(tip);
      const column = Math.floor((tip[0] + raster.extent) / perPixel), row = Math.floor((raster.extent - tip[1]) / perPixel);
      const inside = column >= 0 && row >= 0 && column < raster.size && row < raster.size;
      if (inside && raster.depth[row * raster.size + column] > tip[2] + 0.1 * scene.radius) continue;
      const [x, y] = to(tip), flat = Math.atan2(-end[1], end[0]);
      const on = axis.names.map((name) => !state.hidden.has(name));
      if (axis.order !== 1 && on[0]) sign(x, y, size, axis.order, flat, axis.color, axis.color);
      if (axis.improper > 2 && on[on.length - 1])
        sign(x, y, size * (axis.order === 1 ? 1 : 1.55), axis.improper, flat, axis.order === 1 ? "#ffffff" : null, axis.color);
    }
    if (labels && named) {
      const planar = Math.hypot(up[0], up[1]), away = planar > 0.15 ? [up[0] / planar, up[1] / planar] : [0, 1];
      const at = [0, 1].map((k) => (up[k] * scene.style.axis_length + 0.13 * away[k]) * scene.radius);
      text(axis.names.filter((name) => !state.hidden.has(name)), ...to(at), axis.color, unitLength);
    }
  }
  if (labels && shown.planes.length <= scene.style.many) {
    for (const plane of shown.planes) {
      const ring = circle(turn(state.looking, plane.normal), 36).map((v) => v.map((c) => c * 1.2 * scene.radius));
      const room = (v) => Math.min(0.5 * scene.radius, ...taken.map((t) => Math.hypot(v[0] - t[0], v[1] - t[1]))) + 0.8 * Math.hypot(v[0], v[1]);
      const best = ring.filter((v) => v[2] > -0.05 * scene.radius).reduce((a, b) => (room(b) > room(a) ? b : a));
      taken.push(best);
      text([plane.name], ...to(best), plane.color, unitLength);
    }
  }
  if (labels) {
    if (scene.atoms.length <= 80) {
      scene.atoms.forEach((atom, k) => {
        const p = turn(state.looking, atom.position);
        const column = Math.floor((p[0] + raster.extent) / perPixel), row = Math.floor((raster.extent - p[1]) / perPixel);
        const pixel = row * raster.size + column;
        if (raster.owner[pixel] === k) text([`${atom.symbol}${k}`], ...to(p), "#1e293b", 0.8 * unitLength, true);
      });
    }
  }
  if (shown.inversion) {
    const [x, y] = to([0, 0]);
    context.beginPath();
    context.arc(x, y, 6 * unitLength, 0, 7);
    fill("#ffffff", "#1e293b", 2 * unitLength);
    if (labels) text(["i"], x + 13 * unitLength, y - 13 * unitLength, "#1e293b", unitLength);
  }
}

// lens, triangle, square, pentagon ...
function outline(order) {
  if (order === 2) {
    const arc = Array.from({ length: 12 }, (_, k) => (k / 11 - 0.5) * (Math.PI / 1.6));
    const half = Math.sin(Math.PI / 3.2), edge = Math.cos(Math.PI / 3.2);
    const right = arc.map((a) => [(Math.cos(a) - edge) / half, Math.sin(a) / half]);
    return right.concat(right.map(([x, y]) => [-x, -y]));
  }
  const count = order > 2 && order <= 12 ? order : 32;
  return Array.from({ length: count }, (_, k) => {
    const angle = -Math.PI / 2 + (2 * Math.PI * k) / count;
    return [Math.cos(angle), Math.sin(angle)];
  });
}

function sign(x, y, size, order, flat, face, edge) {
  const c = order === 2 ? Math.cos(flat) : 1, s = order === 2 ? Math.sin(flat) : 0;
  context.beginPath();
  for (const [u, v] of outline(order)) context.lineTo(x + size * (c * u - s * v), y + size * (s * u + c * v));
  context.closePath();
  fill(face, edge, size / 7);
}

function fill(face, edge, width) {
  if (face) {
    context.fillStyle = face;
    context.fill();
  }
  context.strokeStyle = edge;
  context.lineWidth = width;
  context.stroke();
}

// "C6" with its index below; several names side by side. Atoms are plain, or C6 would look like an axis
function text(names, x, y, color, unitLength, plain = false) {
  const parts = plain ? [[names[0], 15, 0]] : names.flatMap((name, k) => {
    const [, letter, rest] = /^(∞?(?:[A-Z][a-z]?|[σi]))(.*)$/.exec(name) || [null, name, ""];
    return [[(k ? ", " : "") + letter, 15, 0], [rest, 11, 4]];
  });
  const font = (size) => `${plain ? 400 : 600} ${size * unitLength}px system-ui, "Segoe UI", sans-serif`;
  let width = 0;
  for (const part of parts) {
    context.font = font(part[1]);
    part.push(context.measureText(part[0]).width);
    width += part[3];
  }
  context.textBaseline = "middle";
  context.textAlign = "left";
  context.lineJoin = "round";
  context.lineWidth = 4 * unitLength;
  context.strokeStyle = "rgba(255, 255, 255, 0.85)";
  context.fillStyle = color;
  for (const paint of ["strokeText", "fillText"]) {
    let left = x - width / 2;
    for (const [word, size, below, length] of parts) {
      context.font = font(size);
      context[paint](word, left, y + below * unitLength);
      left += length;
    }
  }
}

// ---- turning and zooming ----

function rotate(dx, dy) {
  const [cx, sx, cy, sy] = [Math.cos(dx), Math.sin(dx), Math.cos(dy), Math.sin(dy)];
  const about = multiply([[1, 0, 0], [0, cy, -sy], [0, sy, cy]], [[cx, 0, sx], [0, 1, 0], [-sx, 0, cx]]);
  const m = multiply(about, state.looking);
  const right = unit(m[0]), eye = unit(cross(right, m[1]));
  state.looking = [right, cross(eye, right), eye]; // rounding must not add up
  redraw(true);
}

function zoom(factor) {
  state.zoom = Math.min(12, Math.max(0.4, state.zoom * factor));
  redraw(true);
}

function reset() {
  state.looking = scene.view;
  state.zoom = 1;
  redraw();
}

const fingers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
});
for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => fingers.delete(event.pointerId));
canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId), now = [event.clientX, event.clientY];
  if (!before) return hover(event);
  const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
  fingers.set(event.pointerId, now);
  if (others.length) {
    const distance = (p) => Math.hypot(p[0] - others[0][0], p[1] - others[0][1]);
    zoom(distance(now) / Math.max(1, distance(before)));
  } else {
    const scale = 2.4 / (canvas.clientWidth || 600);
    rotate((now[0] - before[0]) * scale, (now[1] - before[1]) * scale);
  }
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-0.0012 * event.deltaY));
}, { passive: false });
canvas.addEventListener("dblclick", reset);

function hover(event) {
  if (!raster) return;
  const place = canvas.getBoundingClientRect(), scale = raster.size / place.width;
  const column = Math.floor((event.clientX - place.left) * scale), row = Math.floor((event.clientY - place.top) * scale);
  const inside = column >= 0 && row >= 0 && column < raster.size && row < raster.size;
  const found = inside ? raster.owner[row * raster.size + column] : -1;
  if (found === hovered) return;
  hovered = found;
  if (found < 0) {
    said.textContent = "\u00a0";
    return;
  }
  const atom = scene.atoms[found], equal = scene.atoms.filter((other) => other.orbit === atom.orbit).length;
  said.textContent = `${atom.symbol}, atom ${found}, orbit ${atom.orbit}: ` +
    (equal > 1 ? `${equal} equivalent atoms` : "no other atom is equivalent");
}

// ---- keys and switches ----

const KEYS = {
  ArrowLeft: () => rotate(-0.12, 0), ArrowRight: () => rotate(0.12, 0),
  ArrowUp: () => rotate(0, -0.12), ArrowDown: () => rotate(0, 0.12),
  "+": () => zoom(1.15), "=": () => zoom(1.15), "-": () => zoom(1 / 1.15), 0: reset, Home: reset,
};
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
document.addEventListener("keydown", (event) => {
  const name = { a: "axes", p: "planes", l: "labels", o: "orbits" }[event.key];
  if (!name || event.ctrlKey || event.metaKey || event.altKey) return;
  const input = document.getElementById(name);
  input.checked = !input.checked;
  redraw();
});
for (const input of document.querySelectorAll("input[type=checkbox]")) {
  input.addEventListener("change", () => {
    const name = input.dataset.element;
    if (name && input.checked) state.hidden.delete(name);
    else if (name) state.hidden.add(name);
    redraw();
  });
}
document.getElementById("reset").addEventListener("click", reset);
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = canvas.toDataURL("image/png");
  link.download = `${scene.formula || "molecule"}-${scene.label}.png`;
  link.click();
});
window.addEventListener("resize", () => redraw());
redraw();
