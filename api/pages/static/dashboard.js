"use strict";
// Polls one route, and shows its figures. All text is set as text, never as HTML.

const EVERY_MS = 5000, OLD_S = 180;
const STATE = document.body.dataset.state;
const maps = [...document.querySelectorAll("canvas[data-plane]")].map((canvas) => new ChunkMap(canvas, showCell));
const plots = {};
let state = null, etag = null, serverAhead = 0;

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

async function get(url, headers = {}) {
  const sent = { Accept: "application/json", "X-Requested-With": "dashboard", ...headers };
  return fetch(url, { headers: sent, cache: "no-store", signal: AbortSignal.timeout(20000) });
}

async function poll() {
  try {
    const answer = await get(STATE, etag ? { "If-None-Match": etag } : {});
    serverAhead = Date.parse(answer.headers.get("Date")) - Date.now() || 0;
    if (answer.status === 401 || answer.status === 403) {
      complain("Your token is no longer valid for this data set. Reload the page to log in.");
    } else if (answer.status === 304) {
      complain("");
    } else if (answer.ok) {
      etag = answer.headers.get("ETag");
      state = await answer.json();
      complain("");
      show();
    } else {
      complain(`The server answered ${answer.status}. The figures below are not up to date.`);
    }
  } catch {
    complain("The server does not answer. The figures below are not up to date.");
  }
  setTimeout(() => (document.hidden ? wait() : poll()), EVERY_MS);
}

function wait() {
  document.addEventListener("visibilitychange", poll, { once: true });
}

function complain(text) {
  const place = document.getElementById("connection");
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

function show() {
  const problem = document.getElementById("problem");
  const text = state.problem ? `The data set cannot be read: ${state.problem}. The figures below may be old or missing.` : "";
  if (problem.textContent !== text) problem.textContent = text;
  problem.hidden = !state.problem;
  for (const list of document.querySelectorAll("[data-lines]")) {
    list.replaceChildren(...state.lines[list.dataset.lines].map((line) => {
      const row = element("div", "", line.tone);
      row.append(element("dt", line.label), element("dd", line.value));
      return row;
    }));
  }
  if (state.map) for (const map of maps) map.show(state.map.planes[map.plane]);
  showPlots();
  showAges();
}

function showAges() {
  if (!state) return;
  for (const place of document.querySelectorAll("[data-age]")) {
    const part = state[place.dataset.age];
    const seconds = part ? Math.max(0, Math.round((Date.now() + serverAhead - Date.parse(part.as_of)) / 1000)) : 0;
    place.textContent = part ? `${span(seconds)} old` : "";
    place.classList.toggle("old", seconds > OLD_S);
  }
}

function span(seconds) {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

async function showCell(plane, column, row) {
  const place = document.getElementById("cell");
  try {
    const answer = await get(`${STATE}/cell?plane=${plane}&column=${column}&row=${row}`);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const cell = await answer.json();
    const left = cell.total - cell.done - cell.failed - cell.empty;
    const counts = `Chunks ${cell.chunks}: ${cell.done} done, ${cell.failed} failed, ${cell.empty} empty, ${left} not ingested`;
    const list = document.createElement("ul");
    list.append(...cell.failures.map((failure) => element("li", `${failure.chunk}: ${failure.reason}`)));
    place.replaceChildren(element("strong", counts), ...(cell.failures.length ? [list] : []));
  } catch (error) {
    place.replaceChildren(element("span", `This cell cannot be read: ${error.message}`));
  }
}

// ------------------------------------------------------------------ plots
function showPlots() {
  const history = state.history, sample = state.sample;
  if (history && history.minutes.length) {
    const [times, median, p99, backlog] = withGaps(history);
    draw("plot-lag", [times, median, p99], lines(["median", "--median"], ["p99", "--p99"]));
    draw("plot-backlog", [times, backlog], lines(["messages", "--median"]));
    const last = (values) => values.findLast((value) => value !== null) ?? "no data";
    name("plot-lag", `Lag over time: newest median ${last(history.median_s)} s, p99 ${last(history.p99_s)} s`);
    name("plot-backlog", `Backlog over time: newest ${last(history.backlog)} messages`);
  }
  for (const [id, values] of [["plot-size", sample?.size_um3], ["plot-thickness", sample?.max_dt_nm]]) {
    if (!values) continue;
    draw(id, [values.counts.map((_, i) => i), values.counts], bars(values.edges), `${values.edges}`);
    const most = values.edges[values.counts.indexOf(Math.max(...values.counts))];
    name(id, `Histogram from ${values.edges[0]} to ${values.edges.at(-1)}, most nodes near ${most}`);
  }
}

// Returns times in seconds, and values of them; a null lies in each gap of more than two minutes.
function withGaps(history) {
  const columns = [[], [], [], []];
  history.minutes.forEach((minute, i) => {
    const add = (...row) => row.forEach((value, k) => columns[k].push(value));
    if (i && minute - history.minutes[i - 1] > 2) add((history.minutes[i - 1] + 1) * 60, null, null, null);
    add(minute * 60, history.median_s[i], history.p99_s[i], history.backlog[i]);
  });
  return columns;
}

function name(id, text) {
  document.getElementById(id).setAttribute("aria-label", text);
}

function colour(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(variable);
}

function axes(x = {}) {
  const common = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  return [{ ...common, ...x }, { ...common, size: 52 }];
}

function lines(...series) {
  const made = series.map(([label, variable]) => ({ label, stroke: colour(variable), width: 2, points: { size: 4 } }));
  const clock = (at) => (at == null ? "" : new Date(at * 1000).toISOString().slice(11, 16));
  return {
    tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
    series: [{ label: "UTC", value: (_, at) => clock(at) }, ...made],
    axes: axes({ values: (_, times) => times.map(clock) }),
    scales: { y: { range: (_, low, high) => [0, 1.1 * high || 1] } },
  };
}

function bars(edges) {
  const shown = (value) => Number(value.toPrecision(2)).toString();
  const values = (_, places) => places.map((place) => (edges[place] === undefined ? "" : shown(edges[place])));
  return {
    series: [{ label: "from", value: (_, place) => (place == null ? "" : shown(edges[place])) },
      { label: "nodes", stroke: colour("--done"), fill: colour("--done"), points: { show: false },
        paths: uPlot.paths.bars({ size: [0.9] }) }],
    axes: axes({ values }),
    legend: { show: false },
    scales: { x: { time: false, range: (_, low, high) => [low - 0.5, high + 0.5] } },
  };
}

function draw(id, data, options, key = "") {
  const place = document.getElementById(id);
  if (plots[id]?.key === key) return plots[id].setData(data);
  plots[id]?.destroy();
  place.replaceChildren();
  plots[id] = new uPlot({ width: place.clientWidth, height: 150, cursor: { drag: { x: false, y: false } }, ...options },
    data, place);
  plots[id].key = key;  // what the options depend on
  return plots[id];
}

new ResizeObserver(() => {
  for (const [id, plot] of Object.entries(plots)) {
    const width = document.getElementById(id).clientWidth;
    if (width !== plot.width) plot.setSize({ width, height: 150 });
  }
}).observe(document.body);

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const id of Object.keys(plots)) {
    plots[id].destroy();
    delete plots[id];
  }
  for (const map of maps) map.draw();
  if (state) showPlots();
});

setInterval(showAges, 1000);
poll();
