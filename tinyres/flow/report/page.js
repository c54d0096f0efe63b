// The page: its table, what happens when one points at a figure, and the controls.

const drawn = {}; // by figure: its plot, its drawing, and what the figure returned
const HEIGHTS = { depth: 370, heat: 420, ridge: 420, highway: 340, ratio: 340, loss: 280 };
const tip = document.getElementById("tip");
let pointed = null; // [figure, index of a target]

const cardOf = (name) => document.getElementById(name);

function draw() {
  const shown = Object.keys(figures).filter((name) => !cardOf(name).hidden);
  const widths = shown.map((name) => drawn[name].plot.clientWidth); // all before the first is drawn: one layout
  shown.forEach((name, i) => {
    const { plot } = drawn[name], card = cardOf(name), width = widths[i], height = HEIGHTS[name];
    const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": true });
    const top = name === "heat" ? 48 : 26; // the map's colours stand above it
    const result = figures[name](svg, { left: 54, right: width - 10, top, bottom: height - 42 });
    plot.replaceChildren(svg);
    drawn[name] = { plot, svg, ...result };
    card.querySelector("p").textContent = result.caption;
    card.querySelector("ul").replaceChildren(...(result.legend ?? []).map(entry));
    const title = card.querySelector("h2").textContent;
    plot.setAttribute("aria-label", `${title}, step ${steps[state.now]}: use the arrow keys`);
  });
  table();
  slider.value = state.now;
  document.getElementById("now").textContent = `${steps[state.now]} of ${steps.at(-1)}`;
  if (pointed) point(...pointed);
}

/** A line of a legend. */
function entry([words, look]) {
  const line = path("M1 6h26", { "stroke-width": 2, ...look });
  return make("li", {}, make("svg:svg", { width: 28, height: 12, "aria-hidden": true }, line), words);
}

// A column's heading, and what stands in it for a layer: `read(role, statistic)`, its kind, the gradient over that at
// the next layer, its update over its weight, and the roles with values that are not finite.
const percent = (part) => (typeof part === "number" ? `${format(100 * part)} %` : part);
const rms = (role) => ({ read }) => read(role, "rms");
const COLUMNS = {
  kind: ({ kind }) => kind,
  "output rms": rms("activation"),
  "gradient rms": rms("activation_grad"),
  "× next": ({ factor }) => factor,
  "weight rms": rms("weight"),
  "weight gradient rms": rms("weight_grad"),
  "update / weight": ({ change }) => change,
  "zeros in output": ({ read }) => percent(read("activation", "zero_fraction")),
  "NaN or Inf": ({ bad }) => bad,
};

function table() {
  const run = runs[state.run], now = at(run), list = layersOf(run, "activation");
  const rows = list.map((layer, i) => {
    const [name, kind] = run.layers[layer], read = (role, statistic) => value(run, role, statistic, now, layer);
    const times = read("activation_grad", "rms") / value(run, "activation_grad", "rms", now, list[i + 1]);
    const factor = times > 0 && times < Infinity ? times : "";
    const bad = Object.keys(run.roles).filter((role) => read(role, "nonfinite_fraction") > 0).join(", ");
    const known = { read, kind, change: ratio(run, now, layer), bad, factor };
    const cells = Object.values(COLUMNS).map((column) => make("td", {}, write(column(known))));
    return make("tr", { class: layer === state.layer ? "chosen" : "" }, make("th", { scope: "row" }, name), ...cells);
  });
  const titles = ["layer", ...Object.keys(COLUMNS)].map((title) => make("th", { scope: "col" }, title));
  const parts = [make("thead", {}, make("tr", {}, ...titles)), make("tbody", {}, ...rows)];
  document.querySelector("#numbers table").replaceChildren(...parts);
  const words = `${run.name} step ${run.steps[now]}. × next: the gradient here over that at the next row's layer.`;
  document.querySelector("#numbers p").textContent = words.trim();
}

/** What stands in a cell: nothing where there is no such number. */
const write = (cell) => (cell === undefined ? "" : typeof cell === "string" ? cell : format(cell));

// Pointing

/** A title, where it is, and [label, number] pairs. */
function describe({ run, layer, step, pair, loss }) {
  if (loss !== undefined) return [run.name, `step ${format(run.loss[0][loss])}`, [["loss", run.loss[1][loss]]]];
  const [name, kind, block] = run.layers[layer], read = (role, statistic) => value(run, role, statistic, step, layer);
  const where = [kind, block && `in ${block}`, run.name, `step ${run.steps[step]}`].filter(Boolean).join(" · ");
  if (pair !== undefined) {
    const [skip, branch] = [read("skip" + pair, "rms"), read("branch" + pair, "rms")];
    const over = skip && branch != null ? branch / skip : null, cosine = read("skip" + pair, "cosine");
    const numbers = [["skip rms", skip], ["branch rms", branch], ["branch over skip", over], ["cosine", cosine]];
    return [`${name}, ${pair ? "backward" : "forward"}`, where, numbers];
  }
  const numbers = Object.entries(STATISTICS).map(([statistic, words]) => [words, read(state.role, statistic)]);
  numbers.push(["update over weight", ratio(run, step, layer)]);
  return [`${name}: ${ROLES[state.role]}`, where, numbers.filter(([, number]) => number !== undefined)];
}

/** Mark a target and show its numbers; without one, nothing. */
function point(name, index) {
  if (pointed) drawn[pointed[0]].svg.querySelector(".ring")?.remove();
  const { svg, plot, targets } = drawn[name] ?? {}, target = targets?.[index];
  pointed = target ? [name, index] : null;
  tip.hidden = !target;
  if (!target) return;
  svg.append(path(MARKS[0](target.x, target.y, 6), { class: "ring" }));
  const [title, where, numbers] = describe(target);
  const pairs = numbers.flatMap(([words, number]) => [make("dt", {}, words), make("dd", {}, format(number))]);
  tip.replaceChildren(make("b", {}, title), make("span", {}, where), make("dl", {}, ...pairs));
  const place = plot.getBoundingClientRect(), x = place.left + target.x, width = tip.offsetWidth;
  const left = x + 16 + width < document.documentElement.clientWidth ? x + 16 : Math.max(4, x - 16 - width);
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${place.top + target.y + 14 + scrollY}px`;
}

function nearest(name, event) {
  const { plot, targets, weights } = drawn[name], place = plot.getBoundingClientRect();
  const [x, y] = [event.clientX - place.left, event.clientY - place.top];
  const distance = (target) => Math.hypot(weights[0] * (target.x - x), weights[1] * (target.y - y));
  return targets.reduce((best, target, i) => (distance(target) < distance(targets[best]) ? i : best), 0);
}

/** Look at this target's layer in all figures, or again at all layers. */
function choose({ run, layer }) {
  if (layer === undefined) return;
  const again = state.run === runs.indexOf(run) && state.layer === layer;
  Object.assign(state, { run: runs.indexOf(run), layer: again ? null : layer });
  offer();
  draw();
  const row = document.querySelector("tr.chosen"), window = document.querySelector(".scroll");
  if (row) window.scrollTop = row.offsetTop - window.clientHeight / 2;
}

for (const name of Object.keys(figures)) {
  const plot = make("div", { class: "plot", tabindex: 0, role: "img" });
  cardOf(name).append(make("ul"), plot);
  drawn[name] = { plot };
  for (const kind of ["pointermove", "pointerdown"])
    plot.addEventListener(kind, (event) => point(name, nearest(name, event)));
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point());
  plot.addEventListener("focus", () => plot.matches(":focus-visible") && point(name, 0));
  plot.addEventListener("blur", () => point());
  plot.addEventListener("click", (event) => choose(drawn[name].targets[nearest(name, event)]));
  plot.addEventListener("keydown", (event) => {
    const { targets, across } = drawn[name], index = pointed?.[0] === name ? pointed[1] : 0;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    if (event.key === "Enter") choose(targets[index]);
    else if (event.key === "Escape") point();
    else if (event.key in moves) point(name, Math.min(Math.max(index + moves[event.key], 0), targets.length - 1));
    else return;
    event.preventDefault();
  });
}

// The controls

const slider = document.getElementById("step"), play = document.getElementById("play");
let timer = null;

/** Fill the lists of choices, which depend on each other, and show the figures that have something to draw. A list of
 * one is no choice. */
function offer() {
  const run = runs[state.run], roles = Object.keys(ROLES).filter((role) => run.roles[role]);
  if (!roles.includes(state.role)) state.role = roles[0];
  const layers = layersOf(run), kinds = [...new Set(run.roles[state.role].layers.map((layer) => run.layers[layer][1]))];
  if (!layers.includes(state.layer)) state.layer = null;
  const choices = {
    run: runs.map((each, i) => [i, each.name]),
    role: roles.map((role) => [role, ROLES[role]]),
    statistic: Object.entries(STATISTICS),
    kind: [["", "all"], ...kinds.map((kind) => [kind, kind])],
    layer: [["", "all"], ...layers.map((layer) => [layer, run.layers[layer][0]])],
  };
  for (const [key, list] of Object.entries(choices)) {
    const select = document.getElementById(key);
    select.replaceChildren(...list.map(([choice, text]) => make("option", { value: choice }, text)));
    select.value = state[key] ?? "";
    if (select.selectedIndex < 0) select.value = ""; // a kind that this quantity does not have
    select.parentNode.hidden = list.length < 2;
    select.onchange = () => {
      state[key] = typeof list[0][0] === "number" || key === "layer" ? list[select.selectedIndex][0] : select.value;
      if (state.layer === "" || key === "run") state.layer = null;
      offer();
      draw();
    };
  }
  for (const [name, figure] of Object.entries(figures))
    cardOf(name).hidden = !figure(make("svg:svg"), { left: 0, right: 400, top: 0, bottom: 300 });
}

function playing(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => go(state.now + 1), 300) : null;
  play.textContent = on ? "⏸" : "▶";
  play.setAttribute("aria-label", on ? "Pause" : "Play the steps");
}

function go(index) {
  state.now = Math.min(index, steps.length - 1);
  if (state.now === steps.length - 1) playing(false);
  draw();
}

play.addEventListener("click", () => {
  if (!timer && state.now === steps.length - 1) state.now = -1;
  playing(!timer);
});
slider.max = steps.length - 1;
slider.addEventListener("input", () => go(Number(slider.value)));
document.querySelectorAll(".card").forEach((card, r) => (card.style.borderTopColor = COLOURS[r % COLOURS.length]));
new ResizeObserver(draw).observe(document.querySelector("main"));
offer();
draw();
