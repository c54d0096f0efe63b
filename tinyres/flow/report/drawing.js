// The means of drawing: elements, colours, scales, axes, curves and marks.

const COLOURS = data.colours;
const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const DASHES = ["", "7 3", "7 3 2 3", "2 3"];
const INK = "#1a1a1a";

/** An element of the page, or with a name like "svg:path" of a drawing. */
function make(tag, attributes = {}, ...children) {
  const name = tag.replace("svg:", ""), space = name === tag ? "1999/xhtml" : "2000/svg";
  const node = document.createElementNS(`http://www.w3.org/${space}`, name);
  for (const [key, text] of Object.entries(attributes)) node.setAttribute(key, text);
  node.append(...children);
  return node;
}

const path = (d, look) => make("svg:path", { d, fill: "none", ...look });
const rectangle = (left, top, width, height) => `M${left} ${top}h${width}v${height}h${-width}z`;
const label = (text, x, y, look) => make("svg:text", { x, y, ...look }, text);

const mix = (one, other, t) => `color-mix(in srgb, ${other} ${(100 * t).toFixed(1)}%, ${one})`;

/** From 0 (dark) to 1 (light). */
function viridis(t) {
  const place = Math.min(Math.max(t, 0), 1) * (VIRIDIS.length - 1);
  const below = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return mix(VIRIDIS[below], VIRIDIS[below + 1], place - below);
}

/** A map from the range of `numbers` to [from, to], with ticks. What has no place, such as 0 on a log scale, is NaN. */
function scale(numbers, log, from, to, most = 6) {
  const transform = (v) => (v === null || v === undefined || (log && v <= 0) ? NaN : log ? Math.log10(v) : v);
  const places = numbers.map(transform).filter((v) => !Number.isNaN(v));
  let low = places.reduce((a, b) => Math.min(a, b), Infinity);
  let high = places.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!places.length) [low, high] = [0, 1];
  const least = log ? 1 : high === low ? 1 : 0; // a decade at least, so that what hardly differs looks level
  const pad = Math.max((high - low) * 0.05, (least - (high - low)) / 2);
  [low, high] = [low - pad, high + pad];
  const linear = (v) => from + ((v - low) / (high - low)) * (to - from);
  const map = (v) => linear(transform(v));
  const unit = log ? 1 : 10 ** Math.floor(Math.log10((high - low) / most));
  const stride = [1, 2, 5, 10, 20, 50, 100].find((n) => (high - low) / (unit * n) <= most) * unit;
  map.ticks = [];
  for (let k = Math.ceil(low / stride); k * stride <= high; k++)
    map.ticks.push([linear(k * stride), log ? power(k * stride) : String(Number((k * stride).toPrecision(6)))]);
  for (let k = Math.floor(low); log && high - low < 1.7 && k <= high; k++) // few decades: say what lies between
    for (const [digit, place] of [2, 5].map((n) => [n, k + Math.log10(n)]))
      if (place >= low && place <= high) map.ticks.push([linear(place), `${digit}·${power(k)}`]);
  return map;
}

/** A map from 0 … count − 1 to bands between `from` and `to`, with a tick each `room` pixels or so. */
function bands(count, from, to, room, text = (i) => String(i + 1), origin = 1) {
  const band = (to - from) / count;
  const map = (i) => from + (i + 0.5) * band;
  const stride = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((n) => n * Math.abs(band) >= room) ?? count;
  const ticks = [...Array(count).keys()].filter((i) => (i + origin) % stride === 0 || (i === 0 && stride > 2));
  return Object.assign(map, { band, even: true, ticks: ticks.map((i) => [map(i), text(i)]) });
}

function axes(svg, box, x, y, xTitle, yTitle) {
  for (const [place, text] of y.ticks) {
    if (!y.even) svg.append(path(`M${box.left} ${place}H${box.right}`, { class: "grid" }));
    svg.append(label(text, box.left - 6, place + 4, { "text-anchor": "end" }));
  }
  for (const [place, text] of x.ticks) {
    svg.append(path(`M${place} ${box.bottom}v4`, { class: "axis" }));
    svg.append(label(text, place, box.bottom + 17, { "text-anchor": "middle" }));
  }
  svg.append(path(`M${box.left} ${box.top}V${box.bottom}H${box.right}`, { class: "axis" }));
  svg.append(label(xTitle, box.right, box.bottom + 34, { "text-anchor": "end" }), label(yTitle, 0, box.top - 10));
}

const MARKS = [
  (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
  (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
  (x, y, r) => `M${x} ${y - 1.3 * r}l${1.3 * r} ${2.3 * r}h${-2.6 * r}z`,
  (x, y, r) => `M${x} ${y - 1.4 * r}l${1.4 * r} ${1.4 * r}l${-1.4 * r} ${1.4 * r}l${-1.4 * r} ${-1.4 * r}z`,
];
const cross = (x, y, r) => `M${x - r} ${y - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`;

/** Of [x, y, number] triples those that no scale holds: a ring where it is exactly 0, a cross where it is missing. */
function oddities(svg, points, stroke, r = 4) {
  const zero = points.filter(([, , v]) => v === 0), missing = points.filter(([, , v]) => v === null);
  if (zero.length) svg.append(path(zero.map(([x, y]) => MARKS[0](x, y, r)).join(""), { class: "zero", stroke }));
  if (missing.length) svg.append(path(missing.map(([x, y]) => cross(x, y, r)).join(""), { class: "missing", stroke }));
}

/** A curve through [x, y, number] triples with a gap where y is NaN, and marks at the height `floor` for the gaps.
 * Returns the places of all points, on the curve or on the floor. */
function trace(svg, points, floor, look, r = 4) {
  const drawn = points.map(([, y]) => !Number.isNaN(y));
  const pen = (i) => (i > 0 && drawn[i - 1] ? "L" : "M");
  const d = points.map(([x, y], i) => (drawn[i] ? `${pen(i)}${x.toFixed(1)} ${y.toFixed(1)}` : "")).join("");
  svg.append(path(d, { class: "curve", "stroke-width": 1.6, ...look }));
  const places = points.map(([x, y, v], i) => [x, drawn[i] ? y : floor, v]);
  oddities(svg, places.filter((_, i) => !drawn[i]), look.stroke, r);
  return places;
}
