"use strict";
// Text from files reaches the page as text only: nothing here sets innerHTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const ATLAS = DATA.atlas;
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function svg(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  return made;
}
const short = (x) => x === null || x === undefined ? "–"
  : Math.abs(x) >= 1e4 || (x !== 0 && Math.abs(x) < 1e-3) ? x.toExponential(1) : String(+x.toPrecision(3));
const percent = (x) => x === null ? "–" : (100 * x).toFixed(x < .0995 ? 1 : 0) + " %";

// -- charts ------------------------------------------------------------------------------------

const W = 340, H = 170, LEFT = 40, BOTTOM = 24, TOP = 8, RIGHT = 8;

function frame(label, xs, ys) {
  const chart = svg("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label});
  const x = (v) => LEFT + (W - LEFT - RIGHT) * (v - xs[0]) / ((xs[1] - xs[0]) || 1);
  const y = (v) => H - BOTTOM - (H - BOTTOM - TOP) * (v - ys[0]) / ((ys[1] - ys[0]) || 1);
  chart.append(svg("line", {class: "axis", x1: LEFT, x2: W - RIGHT, y1: y(ys[0]), y2: y(ys[0])}));
  for (const v of [xs[0], (xs[0] + xs[1]) / 2, xs[1]])
    chart.append(svg("text", {x: x(v), y: H - 8, "text-anchor": v === xs[1] ? "end" : v === xs[0] ? "start" : "middle"}, short(v)));
  for (const v of [ys[0], ys[1]])
    chart.append(svg("text", {x: LEFT - 5, y: y(v) + (v === ys[1] ? 8 : 0), "text-anchor": "end"}, short(v)));
  return {chart, x, y};
}
function histogram(label, counts, edges, mark = null) {
  const ends = [edges[0], edges[edges.length - 1]];
  if (mark !== null) { ends[0] = Math.min(ends[0], mark); ends[1] = Math.max(ends[1], mark); }
  const {chart, x, y} = frame(label, ends, [0, Math.max(...counts, 1)]);
  counts.forEach((n, i) => {
    const bar = svg("rect", {class: "bar", x: x(edges[i]), width: Math.max(x(edges[i + 1]) - x(edges[i]) - .6, .5), y: y(n), height: y(0) - y(n)});
    bar.append(svg("title", {}, `${short(edges[i])} to ${short(edges[i + 1])}: ${n}`));
    chart.append(bar);
  });
  if (mark !== null) chart.append(svg("line", {class: "mark", x1: x(mark), x2: x(mark), y1: TOP, y2: y(0)}));
  return chart;
}
function curve(label, xs, ys, {mark = null, diagonal = false, dots = false, zero = true} = {}) {
  const known = ys.map((v, i) => [xs[i], v]).filter(([a, b]) => a !== null && b !== null);
  const values = known.map(([, v]) => v).concat(mark === null ? [] : [mark]);
  const low = Math.min(...values, zero ? 0 : Infinity), high = Math.max(...values);
  const span = diagonal ? [0, 1] : [xs[0], xs[xs.length - 1]];
  const {chart, x, y} = frame(label, span, diagonal ? [0, 1] : [low, high > low ? high : low + 1]);
  chart.append(svg("polyline", {class: "line", points: known.map(([a, b]) => `${x(a)},${y(b)}`).join(" ")}));
  if (dots) for (const [a, b] of known) chart.append(svg("circle", {class: "bar", cx: x(a), cy: y(b), r: 3}));
  if (mark !== null) chart.append(svg("line", {class: "mark", x1: LEFT, x2: W - RIGHT, y1: y(mark), y2: y(mark)}));
  if (diagonal) chart.append(svg("line", {class: "mark", x1: x(0), y1: y(0), x2: x(1), y2: y(1)}));
  return chart;
}
const figure = (title, chart, caption) =>
  element("figure", {}, element("h3", {}, title), chart, element("figcaption", {}, caption));

function charts() {
  const {l0, frequency, expected, values} = DATA.charts;
  const asked = l0.asked === null ? "" : `; dashed, the ${short(l0.asked)} asked for`;
  byId("chart-list").append(
    figure("Non-zeros per row", histogram("Histogram of the non-zeros per row", l0.counts, l0.edges, l0.asked),
      `Rows by their number of non-zeros; ${short(l0.mean)} on average${asked}.`),
    figure("Activation frequency", curve("Activation frequency of the latents, the most frequent first", frequency.map((_, i) => i + 1), frequency, {mark: expected}),
      "Share of the rows in which a latent is on, the most frequent first" + (expected === null ? "." : "; dashed, 1 - p.")),
    figure("Values", histogram("Histogram of the non-zero values", values.counts, values.edges), "All values that are not zero."),
  );
}
function section(id, title, ...children) {
  byId("nav-more").append(element("a", {href: "#" + id}, title));
  byId("more").append(element("section", {id}, element("h2", {}, title), ...children));
}
function table(head, rows) {
  const line = (cells, kind) => element("tr", {}, ...cells.map((cell) =>
    element(kind, typeof cell === "number" ? {class: "number"} : {}, cell instanceof Node ? cell : typeof cell === "number" ? short(cell) : cell)));
  return element("div", {class: "scroll"}, element("table", {}, element("thead", {}, line(head, "th")),
    element("tbody", {}, ...rows.map((row) => line(row, "td")))));
}
function latentLink(latent) {
  const link = element("a", {href: `#latent-${latent}`}, `latent ${latent}`);
  link.addEventListener("click", (event) => { event.preventDefault(); detail(latent); });
  return link;
}
function model() {
  if (!DATA.model) return;
  const {costs, history, reliability} = DATA.model;
  const list = element("div", {class: "charts"});
  if (history.length) {
    const epochs = history.map((record) => record.epoch);
    const titles = {rate: "Rate, nats per row", distortion: "Distortion, nats per row", density: "Share of open gates", dead: "Latents that did not fire"};
    for (const [name, title] of Object.entries(titles)) {
      const ys = history.map((record) => name === "rate" ? record.rate_slab + record.rate_spike : record[name]);
      list.append(figure(title, curve(`${title} by epoch`, epochs, ys, {zero: name !== "distortion", dots: epochs.length < 3}), `In training, ${epochs.length} epochs; ${short(ys[ys.length - 1])} at the end.`));
    }
  }
  list.append(figure("Calibration of inclusion probabilities",
    curve("Reliability curve", reliability.predicted, reliability.observed, {diagonal: true, dots: true}),
    `Rows are drawn from known codes: how often is a latent on that is given this probability? Dashed, a calibrated answer; expected calibration error ${short(reliability.error)}.`));
  const children = [];
  if (costs) children.push(table(["cost of a row", "nats"], [["rate, values", costs.rate_slab], ["rate, which are on", costs.rate_spike], ["distortion", costs.distortion], ["ELBO", costs.elbo]]));
  section("model", "Model and training", ...children, list);
}
function galleries() {
  for (const gallery of DATA.galleries) {
    section(gallery.id, gallery.title, element("p", {}, gallery.text), ...gallery.rows.map((row) => {
      const title = element("h3", {}, row.latent === undefined ? row.label : latentLink(row.latent));
      if (row.latent !== undefined) title.append(row.label.replace(`latent ${row.latent}`, ""));
      return element("div", {class: "gallery"}, title, element("ul", {class: "tiles"}, ...row.tiles.map((tile) => {
        const item = element("li", {class: "tile"}, element("img", {src: tile.uri, alt: tile.caption || row.label || gallery.title, loading: "lazy"}));
        if (tile.latent !== undefined) item.append(latentLink(tile.latent), tile.caption.replace(`latent ${tile.latent}`, ""));
        else item.append(tile.caption);
        return item;
      })));
    }));
  }
}
function pairs() {
  if (!DATA.pairs.length) return;
  section("pairs", "Latents that fire together", element("p", {}, "Pairs with the strongest correlation of being on."),
    table(["latent", "and", "correlation", "rows with both"], DATA.pairs.map((pair) => [latentLink(pair.first), latentLink(pair.second), pair.correlation, pair.together])));
}
function drift() {
  if (!DATA.drift) return;
  section("drift", "Drift", element("p", {}, `${DATA.drift.sentence}. Non-zeros per row: Kolmogorov-Smirnov ${short(DATA.drift.l0_statistic)}, p = ${short(DATA.drift.l0_p_value)}.`),
    table(["latent", "change of frequency", "p-value", "drifted"], DATA.drift.largest.map((row) => [latentLink(row.latent), row.change, row.p_value, row.drifted ? "yes" : "no"])));
}

// -- atlas ---------------------------------------------------------------------------------------

const SHEETS = ATLAS.sheets || {};
const COLUMNS = {
  index: "number", frequency: "frequency", mean: "mean value", energy: "share of energy",
  importance: "explained variance lost without it", information: "bits about the label",
  rate: "rate in nats", kurtosis: "kurtosis",
};
const state = {sort: "frequency", down: true, page: 0, size: 48, found: []};
const styles = document.head.appendChild(element("style"));
const shownSheets = new Set();

function sprite(kind, latent, column, side, label) {
  // One rule for each sheet, made when it is first shown: hidden sheets are never decoded.
  const number = Math.floor(latent / SHEETS.per), name = `sheet-${kind}-${number}`;
  if (!shownSheets.has(name)) {
    shownSheets.add(name);
    styles.sheet.insertRule(`.${name}{background-image:url("${SHEETS[kind][number]}")}`);
  }
  const scale = side / SHEETS.width, height = SHEETS.height * scale;
  const columns = kind === "changes" ? 1 : SHEETS.n_top;
  const rows = Math.min(SHEETS.per, ATLAS.n - number * SHEETS.per);
  const picture = element("span", {class: `sprite ${name}`, role: "img", "aria-label": label, title: label});
  picture.style.cssText = `width:${side}px;height:${height}px;background-size:${columns * side}px ${rows * height}px;` +
    `background-position:${-column * side}px ${-(latent % SHEETS.per) * height}px`;
  return picture;
}
function pictures(latent, large) {
  const holder = element("div", {class: "pictures"});
  if (SHEETS.changes) holder.append(sprite("changes", latent, 0, large ? 160 : 76, `what latent ${latent} changes`));
  if (SHEETS.images) {
    const tops = element("div", {class: "tops"});
    ATLAS.top[latent].forEach((row, i) => { if (row >= 0) tops.append(sprite("images", latent, i, large ? 84 : 36, ATLAS.names[row])); });
    holder.append(tops);
  }
  return holder;
}
function labels(latent) {
  const list = element("div", {class: "labels"});
  if (!ATLAS.labels) return list;
  ATLAS.labels.best[latent].forEach((which, i) => {
    const share = ATLAS.labels.shares[latent][i], fill = element("i");
    fill.style.width = `${100 * share}%`;
    const name = ATLAS.labels.classes[which] || "(none)";
    list.append(element("div", {class: "label"}, element("span", {title: name}, name), element("span", {class: "track"}, fill), element("span", {}, percent(share))));
  });
  return list;
}
function figures(latent, names) {
  return names.filter((name) => ATLAS.columns[name]).map((name) => {
    const value = ATLAS.columns[name][latent];
    if (name === "frequency") return `on in ${percent(value)}`;
    return name === "information" ? `${short(value)} ${COLUMNS[name]}` : `${COLUMNS[name]} ${short(value)}`;
  }).join(" · ");
}
function card(latent) {
  const open = element("button", {class: "open", type: "button", "data-latent": latent}, `latent ${latent}`);
  open.addEventListener("click", () => detail(latent));
  return element("li", {class: "card"},
    element("header", {}, open, element("span", {class: "state"}, ATLAS.status[latent])),
    pictures(latent, false),
    element("p", {class: "figures"}, figures(latent, ["frequency", "mean", "information"])),
    labels(latent));
}
function detail(latent) {
  const tops = ATLAS.top[latent].filter((row) => row >= 0).map((row) => ATLAS.names[row]);
  byId("detail-body").replaceChildren(
    element("h2", {id: "detail-title"}, `Latent ${latent}`), pictures(latent, true),
    element("p", {}, figures(latent, Object.keys(COLUMNS)) || "–", ATLAS.status[latent] ? ` · ${ATLAS.status[latent]}` : ""),
    histogram(`Values of latent ${latent} where it is not zero`, ATLAS.histograms[latent], ATLAS.edges),
    element("p", {class: "figures"}, "Values where it is not zero."),
    labels(latent), element("p", {class: "figures"}, tops.length ? `Strongest in: ${tops.join(", ")}` : "It is zero in every row."));
  if (!byId("detail").open) byId("detail").showModal();
  history.replaceState(null, "", `#latent-${latent}`);
}
byId("detail").addEventListener("close", () => history.replaceState(null, "", "#atlas"));

function matches(latent, words) {
  const text = `${ATLAS.status[latent]} `.toLowerCase();
  const top = ATLAS.labels ? ATLAS.labels.best[latent].slice(0, 1).map((i) => ATLAS.labels.classes[i].toLowerCase()) : [];
  const names = ATLAS.top[latent].filter((row) => row >= 0).map((row) => ATLAS.names[row].toLowerCase());
  return words.every((word) => /^#?\d+$/.test(word)
    ? String(latent) === word.replace("#", "") || top.includes(word)
    : text.includes(word) || top.some((name) => name.includes(word)) || names.some((name) => name.includes(word)));
}
function refresh() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const column = state.sort === "index" ? null : ATLAS.columns[state.sort];
  const sign = state.down ? -1 : 1;
  state.found = [...Array(ATLAS.n).keys()].filter((latent) => matches(latent, words));
  // What is not a number comes last, whichever way it is sorted.
  state.found.sort((a, b) => column === null ? sign * (a - b)
    : (column[a] === null) - (column[b] === null) || sign * (column[a] - column[b]) || a - b);
  state.page = 0;
  show();
}
function show() {
  const pages = Math.max(1, Math.ceil(state.found.length / state.size));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const start = state.page * state.size, part = state.found.slice(start, start + state.size);
  byId("cards").replaceChildren(...part.map(card));
  byId("found").textContent = state.found.length
    ? `${state.found.length} of ${ATLAS.n} latents; ${start + 1} to ${start + part.length} shown`
    : `No latent of ${ATLAS.n} matches`;
  for (const pager of document.querySelectorAll("[data-pager]")) {
    const [back, , next] = pager.children;
    back.disabled = state.page === 0;
    next.disabled = state.page === pages - 1;
    pager.children[1].textContent = `page ${state.page + 1} of ${pages}`;
  }
}
function turn(step) { state.page += step; show(); }
function atlas() {
  const missing = [SHEETS.changes ? "" : "decoder pictures", SHEETS.images ? "" : "top-activating images"].filter(Boolean);
  byId("atlas-text").textContent = "Each latent: " + (SHEETS.changes ? `what it changes in a picture (${SHEETS.colours}), ` : "") +
    "the images in which it is largest, how often it is on, and for which labels. Choose one for its histogram." +
    (missing.length ? ` Left out here: ${missing.join(" and ")}.` : "");
  for (const [name, title] of Object.entries(COLUMNS))
    if (name === "index" || ATLAS.columns[name]) byId("sort").append(element("option", {value: name}, title));
  byId("sort").value = state.sort;
  for (const pager of document.querySelectorAll("[data-pager]")) {
    const back = element("button", {type: "button"}, "Previous"), next = element("button", {type: "button"}, "Next");
    back.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));
    pager.append(back, element("span"), next);
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", refresh);
  byId("sort").addEventListener("change", (event) => { state.sort = event.target.value; state.down = state.sort !== "index"; direction(); });
  byId("direction").addEventListener("click", () => { state.down = !state.down; direction(); });
  byId("size").addEventListener("change", (event) => { state.size = +event.target.value; state.page = 0; show(); });
  refresh();
}
function direction() {
  byId("direction").textContent = state.down ? "largest first" : "smallest first";
  byId("direction").setAttribute("aria-pressed", state.down);
  refresh();
}

charts(); model(); galleries(); drift(); pairs(); atlas();
const wanted = /^#latent-(\d+)$/.exec(location.hash);
if (wanted && +wanted[1] < ATLAS.n) detail(+wanted[1]);
