// Ray casting in the browser: the same primitives as render.py, drawn into bytes. No DOM in this file.
"use strict";

const LIGHT = unit([-0.42, 0.55, 0.72]);
const HALF = unit([LIGHT[0], LIGHT[1], LIGHT[2] + 1]);

function unit(v) {
  const n = Math.hypot(v[0], v[1], v[2]);
  return [v[0] / n, v[1] / n, v[2] / n];
}

function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

// rows of m are right, up, towards the eye
function turn(m, v) {
  return m.map((row) => row[0] * v[0] + row[1] * v[1] + row[2] * v[2]);
}

function multiply(a, b) {
  return a.map((row) => [0, 1, 2].map((k) => row[0] * b[0][k] + row[1] * b[1][k] + row[2] * b[2][k]));
}

// unit vectors across a normal
function circle(normal, parts) {
  const size = normal.map(Math.abs);
  const least = size.indexOf(Math.min(...size));
  const u = unit(cross(normal, [0, 1, 2].map((k) => (k === least ? 1 : 0))));
  const v = cross(normal, u);
  return Array.from({ length: parts }, (_, k) => {
    const c = Math.cos((2 * Math.PI * k) / parts), s = Math.sin((2 * Math.PI * k) / parts);
    return [0, 1, 2].map((i) => c * u[i] + s * v[i]);
  });
}

function rgb(color) {
  return [1, 3, 5].map((k) => parseInt(color.slice(k, k + 2), 16) / 255);
}

// A square picture of `size` pixels for lengths of up to `extent` from the centre.
class Raster {
  constructor(size, extent) {
    this.size = size;
    this.extent = extent;
    this.bytes = new Uint8ClampedArray(4 * size * size).fill(255);
    this.depth = new Float32Array(size * size).fill(-Infinity);
    this.owner = new Int32Array(size * size).fill(-1); // atom at each pixel
  }

  at(k) {
    return (k + 0.5) * ((2 * this.extent) / this.size) - this.extent;
  }

  // first and last pixel of an interval
  span(low, high) {
    const scale = this.size / (2 * this.extent);
    return [
      Math.max(0, Math.floor((low + this.extent) * scale)),
      Math.min(this.size - 1, Math.ceil((high + this.extent) * scale)),
    ];
  }

  put(pixel, z, nx, ny, nz, color, owner) {
    this.depth[pixel] = z;
    this.owner[pixel] = owner;
    const diffuse = Math.max(0, nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2]);
    const glance = Math.max(0, nx * HALF[0] + ny * HALF[1] + nz * HALF[2]);
    const shine = glance > 0.8 ? 0.35 * Math.pow(glance, 40) : 0;
    const factor = (0.42 + 0.62 * diffuse) * (0.6 + 0.4 * Math.max(0, nz));
    const fog = Math.min(0.3, Math.max(0, 0.16 - (0.16 * z) / this.extent));
    for (let k = 0; k < 3; k++) {
      const lit = Math.min(1, color[k] * factor + shine);
      this.bytes[4 * pixel + k] = 255 * (lit + (1 - lit) * fog);
    }
  }

  sphere(c, radius, color, owner) {
    const [x0, x1] = this.span(c[0] - radius, c[0] + radius);
    const [y0, y1] = this.span(-c[1] - radius, -c[1] + radius);
    for (let row = y0; row <= y1; row++) {
      const dy = -this.at(row) - c[1];
      for (let column = x0; column <= x1; column++) {
        const dx = this.at(column) - c[0], left = radius * radius - dx * dx - dy * dy;
        if (left < 0) continue;
        const dz = Math.sqrt(left), pixel = row * this.size + column;
        if (c[2] + dz > this.depth[pixel])
          this.put(pixel, c[2] + dz, dx / radius, dy / radius, dz / radius, color, owner);
      }
    }
  }

  // from a to b; its half at b has the colour `end`; dash: length of dashes and gaps
  rod(a, b, radius, color, end = color, dash = 0) {
    const d = [b[0] - a[0], b[1] - a[1], b[2] - a[2]], length = Math.hypot(...d);
    if (length < 1e-9) return;
    const u = d.map((v) => v / length), along = 1 - u[2] * u[2];
    if (along < 1e-6) return; // seen from its end
    const [x0, x1] = this.span(Math.min(a[0], b[0]) - radius, Math.max(a[0], b[0]) + radius);
    const [y0, y1] = this.span(Math.min(-a[1], -b[1]) - radius, Math.max(-a[1], -b[1]) + radius);
    // pixels of a row lie within the rod's projection: a strip about its line
    const width = radius / Math.max(1e-9, Math.abs(u[1]) / Math.sqrt(along));
    for (let row = y0; row <= y1; row++) {
      const dy = -this.at(row) - a[1];
      let first = x0, last = x1;
      if (Math.abs(u[1]) > 1e-6) {
        const middle = a[0] + (dy * u[0]) / u[1], [m0, m1] = this.span(middle - width, middle + width);
        first = Math.max(x0, m0);
        last = Math.min(x1, m1);
      }
      for (let column = first; column <= last; column++) {
        const dx = this.at(column) - a[0], du = dx * u[0] + dy * u[1];
        const root = du * u[2] * du * u[2] - along * (dx * dx + dy * dy - du * du - radius * radius);
        if (root < 0) continue;
        const t = (du * u[2] + Math.sqrt(root)) / along, s = du + t * u[2], pixel = row * this.size + column;
        if (s < 0 || s > length || a[2] + t <= this.depth[pixel]) continue;
        if (dash && Math.floor(s / dash) % 2) continue;
        const n = [dx - s * u[0], dy - s * u[1], t - s * u[2]];
        this.put(pixel, a[2] + t, n[0] / radius, n[1] / radius, n[2] / radius, s < length / 2 ? color : end, -1);
      }
    }
  }

  // Translucent disks about the centre; their colours mix without regard to their order, as in render.py.
  disks(normals, colors, radius, opacity) {
    const seen = normals.map((n, k) => [n, colors[k]]).filter(([n]) => Math.abs(n[2]) >= 1e-3);
    if (!seen.length) return;
    const count = seen.length, opaque = Array.from({ length: count + 1 }, (_, k) => 1 - Math.pow(1 - opacity, k));
    const sx = Float64Array.from(seen, ([n]) => -n[0] / n[2]), sy = Float64Array.from(seen, ([n]) => -n[1] / n[2]);
    const [red, green, blue] = [0, 1, 2].map((i) => Float64Array.from(seen, ([, c]) => 255 * c[i]));
    const { bytes, depth, size } = this, [low, high] = this.span(-radius, radius), square = radius * radius;
    for (let row = low; row <= high; row++) {
      const y = -this.at(row);
      for (let column = low; column <= high; column++) {
        const x = this.at(column), rest = square - x * x - y * y;
        if (rest < 0) continue;
        const pixel = row * size + column, top = Math.sqrt(rest), bottom = Math.max(depth[pixel], -top);
        let hits = 0, r = 0, g = 0, b = 0;
        for (let k = 0; k < count; k++) {
          const z = sx[k] * x + sy[k] * y;
          if (z > bottom && z <= top) {
            hits++;
            r += red[k];
            g += green[k];
            b += blue[k];
          }
        }
        if (hits === 0) continue;
        const part = opaque[hits], p = 4 * pixel;
        bytes[p] += (r / hits - bytes[p]) * part;
        bytes[p + 1] += (g / hits - bytes[p + 1]) * part;
        bytes[p + 2] += (b / hits - bytes[p + 2]) * part;
      }
    }
  }
}

// shown: {axes, planes: lists of those to draw, orbits: colour by orbit}
function render(scene, shown, looking, size, extent) {
  const raster = new Raster(size, extent), scale = scene.radius / 3, style = scene.style;
  const x = scene.atoms.map((atom) => turn(looking, atom.position));
  const colors = scene.atoms.map((atom) => rgb(shown.orbits ? atom.orbit_color : atom.color));
  scene.atoms.forEach((atom, k) => raster.sphere(x[k], atom.radius, colors[k], k));
  for (const [i, j] of scene.bonds) raster.rod(x[i], x[j], style.bond, colors[i], colors[j]);
  for (const axis of shown.axes) {
    const tip = turn(looking, axis.direction).map((v) => v * style.axis_length * scene.radius);
    const dash = axis.order === 1 ? 0.06 * scene.radius : 0;
    raster.rod(tip.map((v) => -v), tip, style.rod * scale, rgb(axis.color), rgb(axis.color), dash);
  }
  const normals = shown.planes.map((plane) => turn(looking, plane.normal));
  const tints = shown.planes.map((plane) => rgb(plane.color)), radius = style.disk * scene.radius;
  const rim = style.rim * scale * (shown.planes.length <= style.many ? 1 : 0.5);
  normals.forEach((normal, k) => {
    const ring = circle(normal, style.rim_parts).map((v) => v.map((c) => c * radius));
    ring.forEach((a, i) => raster.rod(a, ring[(i + 1) % ring.length], rim, tints[k]));
  });
  const opacity = Math.min(0.26, Math.max(0.05, 0.36 / Math.pow(Math.max(1, normals.length), 0.6)));
  raster.disks(normals, tints, radius, opacity);
  return raster;
}
