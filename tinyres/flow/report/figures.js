// The figures. Each draws into an empty drawing and returns what can be pointed at: `targets`, the `weights` of the
// distance to them along x and y, how many it is `across` to the one above or below, a caption, and a legend of
// [words, look of a line] pairs. Null: there is nothing to draw.

const lookOf = (r) => ({ stroke: COLOURS[r % COLOURS.length], "stroke-dasharray": DASHES[r % DASHES.length] });
const measure = () => `${ROLES[state.role]}, ${STATISTICS[state.statistic]}`;
const isChosen = ({ run, layer }) => runs.indexOf(run) === state.run && layer === state.layer;
const stepLine = (x, box) => path(`M${x} ${box.top}V${box.bottom}`, { class: "now" });

const figures = {
  depth(svg, box) {
    const read = (run, s, layer) => value(run, state.role, state.statistic, s, layer);
    const lists = runs.map((run) => layersOf(run));
    const all = runs.flatMap((run, r) => run.steps.flatMap((_, s) => lists[r].map((layer) => read(run, s, layer))));
    const x = bands(Math.max(...lists.map((list) => list.length)), box.left, box.right, 30);
    const y = scale(all, LOGARITHMIC.includes(state.statistic), box.bottom - 12 - 12 * runs.length, box.top);
    axes(svg, box, x, y, `depth (${state.kind || "layers"}, from the input)`, measure());
    const targets = runs.flatMap((run, r) => {
      const look = lookOf(r), mark = MARKS[r % MARKS.length], floor = box.bottom - 9 - 12 * r;
      const points = (s) => lists[r].map((layer, i) => [x(i), y(read(run, s, layer)), read(run, s, layer)]);
      if (at(run) > 0) trace(svg, points(0).filter(([, py]) => py), floor, { ...look, class: "curve faint" });
      const places = trace(svg, points(at(run)), floor, { ...look, "data-run": r });
      const marked = places.filter(([, py], i) => py !== floor && i % Math.ceil(6 / x.band) === 0);
      svg.append(path(marked.map(([px, py]) => mark(px, py, 3)).join(""), { fill: look.stroke }));
      return places.map(([px, py], i) => ({ x: px, y: py, run, layer: lists[r][i], step: at(run) }));
    });
    const legend = runs.map((run, r) => [`${run.name} step ${run.steps[at(run)]}`.trim(), lookOf(r)]);
    const chosen = targets.find(isChosen);
    if (chosen) svg.prepend(path(`M${chosen.x} ${box.top}V${box.bottom}`, { class: "chosen" }));
    const caption = `The loss is on the right, the image on the left. Faint: step ${steps[0]}.`;
    return { targets, weights: [4, 1], across: lists[0].length, caption, legend };
  },

  heat(svg, box) {
    const run = runs[state.run], list = layersOf(run), shades = 40;
    const grid = list.map((layer) => run.steps.map((_, s) => value(run, state.role, state.statistic, s, layer)));
    const x = bands(run.steps.length, box.left, box.right, 45, (i) => String(run.steps[i]), 0);
    const y = bands(list.length, box.top, box.bottom, 16);
    const tone = scale(grid.flat(), LOGARITHMIC.includes(state.statistic), 0, 1);
    const cell = `h${x.band.toFixed(2)}v${y.band.toFixed(2)}h${(-x.band).toFixed(2)}z`;
    const cells = Array.from({ length: shades }, () => "");
    const target = (v, i, step) => ({ x: x(step), y: y(i), v, run, layer: list[i], step });
    const targets = grid.flatMap((line, i) => line.map((v, step) => target(v, i, step)));
    for (const { x: px, y: py, v } of targets) {
      const corner = `M${(px - x.band / 2).toFixed(2)} ${(py - y.band / 2).toFixed(2)}`;
      if (!Number.isNaN(tone(v))) cells[Math.floor(tone(v) * shades)] += corner + cell;
    }
    const shade = (i) => viridis((i + 0.5) / shades);
    cells.forEach((d, i) => d && svg.append(path(d, { fill: shade(i), stroke: shade(i), "stroke-width": 0.4 })));
    const odd = targets.filter(({ v }) => Number.isNaN(tone(v))).map((target) => [target.x, target.y, target.v]);
    oddities(svg, odd, "#666", Math.min(3.5, x.band / 3, y.band / 3));
    axes(svg, box, x, y, "step", "depth");
    const outline = (...sides) => {
      for (const look of ["halo", "now"]) svg.append(path(rectangle(...sides), { class: look }));
    };
    outline(x(at(run)) - x.band / 2, box.top - 3, x.band, box.bottom - box.top + 6);
    const row = list.indexOf(state.layer);
    if (row >= 0) outline(box.left - 3, y(row) - y.band / 2, box.right - box.left + 6, y.band);
    const width = Math.min(180, (box.right - box.left) / 2), start = box.right - width;
    cells.forEach((_, i) => {
      const look = { stroke: shade(i), "stroke-width": 9 };
      svg.append(path(`M${start + (i * width) / shades} 8h${width / shades + 0.5}`, look));
    });
    for (const [t, text] of new Set([tone.ticks[0], tone.ticks.at(-1)]))
      svg.append(label(text, start + width * t, 26, { "text-anchor": "middle" }));
    const caption = `${measure()}; the input at the top.`;
    return { targets, weights: [1 / x.band, 1 / y.band], across: run.steps.length, caption };
  },

  ridge(svg, box) {
    const run = runs[state.run], now = at(run), one = state.layer !== null, colour = lookOf(state.run).stroke;
    const every = (layer) => run.steps.map((_, step) => ({ layer, step }));
    const rows = one ? every(state.layer) : layersOf(run).map((layer) => ({ layer, step: now }));
    const read = ({ layer, step }) => histogram(run, step, layer);
    const seen = (one ? rows : layersOf(run).flatMap(every)).map(read).filter(Boolean);
    if (!seen.length) return null;
    const visible = (heights) => heights.findIndex((height) => height > 0.03);
    const ends = seen.flatMap(([first, heights]) => [first + visible(heights), first + heights.length]);
    const x = scale(ends.map((k) => 2 ** k), true, box.left, box.right, (box.right - box.left) / 55);
    const y = bands(rows.length, box.top + 24, box.bottom, 16, ...(one ? [(i) => String(run.steps[i]), 0] : []));
    axes(svg, box, x, y, "magnitude", one ? "step" : "depth");
    const targets = rows.map((row, i) => {
      const ground = y(i) + y.band / 2, tall = Math.max(26, 2.5 * y.band), found = read(row), { layer, step } = row;
      if (found) {
        const [first, heights] = found, stroke = one && step === now ? INK : "#ffffff";
        const tops = heights.map((h, k) => [x(2 ** (first + k + 0.5)), ground - h * tall]);
        const [start, end] = [0, heights.length].map((k) => [x(2 ** (first + k)), ground]);
        const d = [start, ...tops, end].map(([px, py]) => `${Math.max(box.left, px).toFixed(1)} ${py.toFixed(1)}`);
        const fill = mix(colour, "#ffffff", one && step !== now ? 0.7 : 0.3);
        svg.append(path(`M${d.join("L")}`, { class: "hill", fill, stroke }));
      } else {
        const zero = value(run, state.role, "zero_fraction", step, layer) === 1;
        oddities(svg, [[box.left + 10, ground - 4, zero ? 0 : null]], colour, 3);
      }
      return { x: box.left + 10, y: ground - 4, run, layer, step };
    });
    const which = one ? `${run.layers[state.layer][0]} at each step` : `each layer at step ${run.steps[now]}`;
    const caption = `${ROLES[state.role]}: magnitudes of what is not zero, ${which}, all peaks drawn equally high.`;
    return { targets, weights: [0, 1], across: 1, caption };
  },

  highway(svg, box) {
    const run = runs[state.run], now = at(run), list = run.roles.skip?.layers ?? [], targets = [];
    if (!list.length) return null;
    const x = bands(list.length, box.left, box.right, 24), middle = (box.top + box.bottom) / 2, gap = 16;
    const [skips, branches] = [COLOURS[0], COLOURS[4]].map((stroke) => ({ stroke, "stroke-width": x.band * 0.85 }));
    const half = (suffix, title, top, bottom) => {
      const height = (part) => bottom - part * (bottom - top);
      const y = { ticks: [0, 0.5, 1].map((part) => [height(part), `${100 * part} %`]) };
      axes(svg, { ...box, top, bottom }, suffix ? x : { ticks: [] }, y, suffix ? "block" : "", title);
      list.forEach((layer, i) => {
        const [skip, branch] = ["skip", "branch"].map((role) => value(run, role + suffix, "rms", now, layer));
        const edge = height(branch ** 2 / (skip ** 2 + branch ** 2));
        if (skip == null || branch == null || Number.isNaN(edge))
          oddities(svg, [[x(i), bottom - 7, skip === 0 && branch === 0 ? 0 : null]], "#666");
        else svg.append(path(`M${x(i)} ${bottom}V${edge}`, branches), path(`M${x(i)} ${edge}V${top}`, skips));
        targets.push({ x: x(i), y: (top + bottom) / 2, run, layer, step: now, pair: suffix });
      });
    };
    half("", "forward", box.top, middle - gap);
    half("_grad", "backward, of the gradient by the block's input", middle + gap, box.bottom);
    const legend = [["skip", { ...skips, "stroke-width": 10 }], ["branch", { ...branches, "stroke-width": 10 }]];
    const caption = `Their shares of the mean square at each addition, step ${run.steps[now]}.`;
    return { targets, weights: [1, 1], across: list.length, caption, legend };
  },

  ratio(svg, box) {
    const run = runs[state.run], list = layersOf(run, "update");
    let bold = null;
    if (!list.length) return null;
    const lines = list.map((layer) => run.steps.map((_, s) => ratio(run, s, layer)));
    const x = scale(run.steps, false, box.left, box.right, (box.right - box.left) / 60);
    const y = scale([...lines.flat(), 1e-3], true, box.bottom - 16, box.top);
    axes(svg, box, x, y, "step", "rms of the update over rms of the weight");
    const tone = (i) => viridis((0.85 * i) / Math.max(1, list.length - 1));
    const targets = lines.flatMap((line, i) => {
      const points = line.map((v, s) => [x(run.steps[s]), y(v), v]);
      const places = trace(svg, points, box.bottom - 8, { stroke: tone(i), "stroke-width": 1.1 }, 3);
      if (list[i] === state.layer) bold = points;
      return places.map(([px, py], s) => ({ x: px, y: py, run, layer: list[i], step: s }));
    });
    if (bold) trace(svg, bold, box.bottom - 8, { stroke: INK, "stroke-width": 3 }, 3);
    svg.append(path(`M${box.left} ${y(1e-3)}H${box.right}`, { stroke: INK, "stroke-dasharray": "5 4" }));
    svg.append(stepLine(x(run.steps[at(run)]), box));
    const legend = [["first layer", { stroke: tone(0) }], ["last layer", { stroke: tone(list.length - 1) }]];
    if (bold) legend.push([run.layers[state.layer][0], { stroke: INK, "stroke-width": 3 }]);
    const caption = "How much of a layer one step changes. Dashed: 10⁻³, a rule of thumb for a good learning rate.";
    return { targets, weights: [1, 1], across: run.steps.length, caption, legend };
  },

  loss(svg, box) {
    const known = runs.filter((run) => run.loss), each = (i) => known.flatMap((run) => run.loss[i]);
    if (!known.length) return null;
    const x = scale([...each(0), ...steps], false, box.left, box.right, (box.right - box.left) / 60);
    const y = scale([0, ...each(1)], false, box.bottom, box.top);
    axes(svg, box, x, y, "step", "training loss");
    const targets = known.flatMap((run) => {
      const points = run.loss[0].map((step, i) => [x(step), y(run.loss[1][i]), run.loss[1][i]]);
      const places = trace(svg, points, box.bottom - 8, lookOf(runs.indexOf(run)));
      return places.map(([px, py], loss) => ({ x: px, y: py, run, loss }));
    });
    svg.append(stepLine(x(steps[state.now]), box));
    const legend = known.length > 1 ? known.map((run) => [run.name, lookOf(runs.indexOf(run))]) : [];
    return { targets, weights: [4, 1], across: 1, caption: "", legend };
  },
};
