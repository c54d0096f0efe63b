// The recorded numbers, and how they are written.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const steps = [...new Set(runs.flatMap((run) => run.steps))].sort((a, b) => a - b);

for (const grids of runs.flatMap((run) => Object.values(run.roles)))
  grids.columns = new Map(grids.layers.map((layer, column) => [layer, column]));

// What is looked at: `now` is an index of steps, `run` of runs, `layer` of the run's layers, or null for all of them.
const state = { now: 0, run: Math.max(0, runs.findIndex((run) => run.roles.skip)), layer: null };
Object.assign(state, { role: "activation_grad", statistic: "rms", kind: data.kind });

const ROLES = {
  activation_grad: "gradient by the output",
  activation: "output",
  weight_grad: "gradient by the weight",
  weight: "weight",
  update: "update of the weight",
  skip: "skip",
  branch: "branch",
  skip_grad: "gradient through the skip",
  branch_grad: "gradient through the branch",
};
const STATISTICS = {
  rms: "root mean square",
  std: "standard deviation",
  abs_max: "largest magnitude",
  mean: "mean",
  zero_fraction: "fraction of zeros",
  nonfinite_fraction: "fraction of NaN or Inf",
};
const LOGARITHMIC = ["rms", "std", "abs_max"];
const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"; // 0 to 63
const FIRST_BIN = -48; // a histogram's bin k holds magnitudes from 2^(k - 48) to 2^(k - 47)

/** The index of the run's last recorded step up to now. */
const at = (run) => Math.max(0, run.steps.findLastIndex((step) => step <= steps[state.now]));

/** A number; null where it did not come, undefined where there is no such thing. `step` is an index. */
function value(run, role, statistic, step, layer) {
  const grids = run.roles[role];
  return grids?.columns.has(layer) ? grids[statistic]?.[step][grids.columns.get(layer)] : undefined;
}

/** The size of a weight's update over the weight's own. */
function ratio(run, step, layer) {
  const [update, weight] = ["update", "weight"].map((role) => value(run, role, "rms", step, layer));
  return update === undefined ? undefined : weight && update !== null ? update / weight : null;
}

/** [exponent of the first bin, heights from 0 to 1], or null where there is no histogram. */
function histogram(run, step, layer) {
  const text = value(run, state.role, "histogram", step, layer);
  if (!text) return null;
  const [first, ...heights] = [...text].map((letter) => LEVELS.indexOf(letter));
  return [first + FIRST_BIN, heights.map((height) => height / 63)];
}

/** The layers with numbers of this role, in the order of the forward pass: those of the chosen kind, or else all. */
function layersOf(run, role = state.role) {
  const layers = run.roles[role]?.layers ?? [];
  const chosen = layers.filter((layer) => run.layers[layer][1] === state.kind);
  return chosen.length ? chosen : layers;
}

const power = (k) => "10" + [...String(k)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");

function format(number) {
  if (number === null || number === undefined) return "missing";
  const size = Math.abs(number);
  if (number === 0) return "0";
  return size >= 1e-2 && size < 1e4 ? String(Number(number.toPrecision(4))) : number.toExponential(3);
}
