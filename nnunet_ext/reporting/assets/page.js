// The overview, the language switch and the frame around the viewer.
"use strict";

const STRINGS = JSON.parse(document.getElementById("strings").textContent);
const REPORT = JSON.parse(document.getElementById("report").textContent);
const $ = (id) => document.getElementById(id);

let language = localStorageGet("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");
let experiment = REPORT.experiments[0];
let viewer = null; // made when the first case is opened
let opening = Promise.resolve();

function localStorageGet(key) {
  try {
    return localStorage.getItem(`nnunet_ext.${key}`);
  } catch {
    return null; // a browser may forbid it for files
  }
}

function localStorageSet(key, value) {
  try {
    localStorage.setItem(`nnunet_ext.${key}`, value);
  } catch {
    // not remembered then
  }
}

// String of the current language with {places} filled in.
function t(key, values = {}) {
  return STRINGS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function organName(name) {
  const organ = REPORT.organs.find((o) => o.name === name);
  return language === "zh" && organ.chinese ? organ.chinese : name;
}

// A text of the content in the current language. A plain string is the same in both.
const said = (text) => (typeof text === "string" ? text : text[language]).replaceAll("+-", "±");

// Sentences one after the other. Chinese has no blanks between them.
const sentences = (texts) => texts.map(said).join(language === "zh" ? "" : " ");

function organNames(names) {
  return names.map(organName).join(language === "zh" ? "、" : ", ");
}

// h("td.low", {title: "..."}, child, "text", ...)
function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

const number = (value, decimals) => (value === null || value === undefined ? "–" : value.toFixed(decimals));
const meanSd = (s, decimals) =>
  !s?.n ? "–" : number(s.mean, decimals) + (s.sd === null ? "" : ` ± ${number(s.sd, decimals)}`);

function reasonText({ kind, organs = [], count }) {
  return t(`reason_${kind}`, { organs: organNames(organs), count });
}

// Overview -------------------------------------------------------------------------------------------------------------

function renderOverview() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-title]")) element.title = t(element.dataset.title);
  document.title = t("title");
  $("language").textContent = t("language_other");
  $("subtitle").textContent = t("subtitle", {
    experiment: experiment.name, cases: experiment.cases.length, organs: REPORT.organs.length,
  });
  $("experiment").replaceChildren(...REPORT.experiments.map(({ name }) => h("option", {}, name)));
  $("experiment").value = experiment.name;
  $("experiment-choice").hidden = REPORT.experiments.length < 2;
  $("side-by-side").hidden = !REPORT.side_by_side.length;
  $("chosen").hidden = !REPORT.side_by_side.length;
  $("chosen").textContent = experiment.name;
  if (REPORT.side_by_side.length) $("methods").replaceChildren(sideBySide());
  renderHeadline();
  $("organs").replaceChildren(organTable());
  $("cases").replaceChildren(caseTable());
  renderComparison();
  $("remarks").hidden = !REPORT.remarks.length;
  $("remarks").querySelector("ul").replaceChildren(...REPORT.remarks.map((text) => h("li", {}, said(text))));
  const keys = experiment.has_scores ? ["order", "low", "dsc", "hd95", "surface_dice"] : [];
  $("definitions").replaceChildren(
    ...[...keys, "view", "private"].map((key) => h("li", {}, t(`method_${key}`, REPORT.thresholds))),
  );
}

function renderHeadline() {
  const figure = (value, label, ...classes) =>
    h(["div", "figure", ...classes].join("."), {}, h("b", {}, value), h("span", {}, label));
  const conspicuous = experiment.cases.filter((c) => c.reasons.length).length;
  const figures = [figure(String(experiment.cases.length), t("cases"))];
  if (experiment.has_scores) {
    figures.push(figure(`${number(experiment.all_organs.dsc_percent.mean, 1)} %`, t("mean_dsc")));
    const missed = experiment.cases.flatMap((c) => Object.values(c.scores)).filter(({ flag }) => flag === "missed").length;
    figures.push(figure(String(missed), t("missed_organs"), missed ? "alert" : "calm"));
  }
  figures.push(figure(String(conspicuous), t("cases_to_check"), conspicuous ? "alert" : "calm"));
  if (!experiment.has_scores) figures.push(h("p", {}, t("no_reference")));
  $("headline").replaceChildren(...figures);
}

function chooseExperiment(name) {
  experiment = REPORT.experiments.find((one) => one.name === name);
  renderOverview();
}

// A row per experiment, of the cases and organs that all have. Its name chooses the one that the page shows below.
function sideBySide() {
  const keys = ["missed", "weights", "seconds", "memory"];
  const head = h("tr", {}, h("th", {}, t("method")), h("th", {}, t("method_strip")), h("th.number", {}, t("dsc")));
  for (const key of keys) head.append(h("th.number", {}, t(`took_${key}`)));
  const best = Math.max(...REPORT.side_by_side.map((row) => row.all_organs.mean ?? 0)).toFixed(1);
  const rows = REPORT.side_by_side.map((row) => {
    const choose = h("button.link", { type: "button", onclick: () => chooseExperiment(row.name) }, row.name);
    const text = meanSd(row.all_organs, 1);
    const dots = Object.entries(row.cases).map(([name, dsc]) => ({ name, dsc, colour: "var(--accent)" }));
    const cells = [
      h("td.strip", {}, strip(dots, row.all_organs.mean)),
      h("td.number", {}, number(row.all_organs.mean, 1) === best ? h("b", {}, text) : text),
      h(row.missed ? "td.number.low" : "td.number", {}, String(row.missed)),
      ...["weights", "seconds", "memory"].map((key) => h("td.number", {}, said(row[key] ?? "-"))),
    ];
    return h(row.name === experiment.name ? "tr.chosen" : "tr", {}, h("th", {}, choose), ...cells);
  });
  return h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows));
}

function organTable() {
  if (!experiment.has_scores) {
    return h("p.chips", {}, ...REPORT.organs.map((organ) => h("span.chip", {}, swatch(organ), organLabel(organ))));
  }
  const head = h("tr", {}, h("th", {}, t("organ")), h("th", {}, t("organ_strip")));
  for (const key of ["dsc", "hd95", "surface_dice", "n"]) head.append(h("th.number", {}, t(key)));
  const rows = REPORT.organs.map((organ) => {
    const scores = experiment.per_organ[organ.name];
    const cells = experiment.not_segmented.includes(organ.name)
      ? [h("td", { colspan: 5 }, t("not_segmented"))]
      : [
          h("td.strip", {}, strip(dotsOf(organ), scores.dsc_percent.mean)),
          h("td.number", {}, h("b", {}, meanSd(scores.dsc_percent, 1))),
          h("td.number", {}, number(scores.hd95_mm.median, 1)),
          h("td.number", {}, meanSd(scores.surface_dice, 2), " ", h("small", {}, `${experiment.tolerance_mm[organ.name]} mm`)),
          h("td.number", {}, String(scores.dsc_percent.n)),
        ];
    return h("tr", {}, h("th", {}, swatch(organ), organLabel(organ)), ...cells);
  });
  return h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows));
}

const swatch = (organ) => h("i.swatch", { style: `background:${organ.colour}` });

function organLabel(organ) {
  const local = organName(organ.name);
  return local === organ.name ? h("span", {}, local) : h("span", {}, local, " ", h("small", {}, organ.name));
}

const dotsOf = (organ) =>
  experiment.cases.map((c) => ({ name: c.name, dsc: c.scores[organ.name]?.dsc_percent, colour: organ.colour }));

// A dot per case between 0 and 100 %, and the mean.
function strip(dots, mean) {
  const line = h("div.line", {});
  for (const percent of [0, 50, 100]) line.append(h("i.tick", { style: `left:${percent}%`, "data-percent": percent }));
  for (const { name, dsc, colour } of dots) {
    if (dsc === null || dsc === undefined) continue;
    line.append(h("i.dot", { style: `left:${dsc}%;background:${colour}`, title: `${name}: ${number(dsc, 1)}` }));
  }
  if (mean !== null) line.append(h("i.mean", { style: `left:${mean}%` }));
  return line;
}

function caseTable() {
  const head = h("tr", {}, h("th", {}, t("case")), h("th", {}, t("why")));
  if (experiment.has_scores) {
    for (const organ of REPORT.organs) head.append(h("th.number", {}, organName(organ.name)));
  }
  const rows = experiment.cases.map((c) => {
    const open = h("button.link", { type: "button", onclick: () => goToCase(c.name) }, c.name);
    const chips = c.reasons.map((reason) => h(`span.chip.${reason.kind}`, {}, reasonText(reason)));
    const lines = c.warnings.map((text) => h("small", {}, said(text)));
    const why = chips.length ? [...chips, ...lines] : [h("span.hint", {}, t("nothing"))];
    const row = h("tr", { onclick: () => goToCase(c.name) }, h("th", {}, open), h("td.why", {}, ...why));
    if (experiment.has_scores) row.append(...REPORT.organs.map((organ) => scoreCell(c, organ)));
    return row;
  });
  return h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows));
}

function scoreCell(c, organ) {
  const score = c.scores[organ.name];
  if (!score) return h("td.number", {}, "–");
  const low = c.reasons.some(({ kind, organs }) => kind === "low" && organs.includes(organ.name));
  const title = `HD95 ${number(score.hd95_mm, 1)} mm`;
  if (score.flag) return h(`td.number.${score.flag}`, { title }, t(`cell_${score.flag}`));
  return h(low ? "td.number.low" : "td.number", { title }, number(score.dsc_percent, 1));
}

function renderComparison() {
  $("comparison").hidden = !REPORT.tables.length && !REPORT.pictures.length;
  $("tables").replaceChildren(
    ...REPORT.tables.map((table) => {
      const cell = ({ text, best }, i) => h(i ? "td.number" : "th", {}, best ? h("b", {}, said(text)) : said(text));
      const body = table.rows.map((row) => h("tr", {}, ...row.map(cell)));
      const head = h("tr", {}, ...table.header.map((text, i) => h(i ? "th.number" : "th", {}, said(text))));
      const content = h("table", {}, h("thead", {}, head), h("tbody", {}, ...body));
      return h("figure", {}, h("figcaption", {}, said(table.title)), content, h("p.hint", {}, sentences(table.notes)));
    }),
  );
  const kinds = [...new Set(REPORT.pictures.map(({ kind }) => kind))];
  $("pictures").replaceChildren(
    ...kinds.map((kind) => {
      const pictures = REPORT.pictures.filter((picture) => picture.kind === kind);
      const summary = h("summary", {}, `${t(`pictures_${kind}`)} (${pictures.length})`);
      const figures = pictures.map(({ title, source }) =>
        h("figure", {}, h("figcaption", {}, said(title)), h("img", { src: source, alt: said(title), loading: "lazy" })),
      );
      return h(`details.${kind}`, kind === "box" ? { open: "" } : {}, summary, ...figures);
    }),
  );
}

// Viewer ---------------------------------------------------------------------------------------------------------------

const caseOfHash = () => experiment.cases.find(({ name }) => name === decodeURIComponent(location.hash.slice(1)));
const goToCase = (name) => (location.hash = `#${encodeURIComponent(name)}`);

// One case after the other: a reader may be quicker than a case can be unpacked.
function route() {
  opening = opening.then(openOrClose).catch((error) => {
    showMessage(String(error.message ?? error));
    console.error(error);
  });
}

async function openOrClose() {
  const current = caseOfHash();
  $("viewer").hidden = !current;
  document.body.classList.toggle("viewing", Boolean(current));
  viewer?.close();
  if (!current) return;
  renderFrame(current);
  showMessage(t("loading"));
  if (document.readyState === "loading") {
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  }
  const data = document.getElementById(`case:${current.name}`);
  if (!data) {
    const reason = JSON.parse($("left-out").textContent)[current.name];
    showMessage(`${t("no_viewer")}: ${t(`no_viewer_${reason}`)}`);
    return;
  }
  if (!document.createElement("canvas").getContext("webgl2")) {
    showMessage(t("no_webgl"));
    return;
  }
  if (!viewer) {
    const started = new Viewer(REPORT.organs, renderPosition);
    await started.start($("niivue-code"));
    viewer = started;
  }
  await viewer.open(unpackCase(await gunzip(data)), experiment.name);
  const first = current.reasons.flatMap(({ organs }) => organs ?? [])[0] ?? REPORT.organs.at(-1).name;
  viewer.caseName = current.name;
  viewer.goTo(first);
  renderFrame(current);
  showMessage("");
}

function showMessage(text) {
  $("message").hidden = !text;
  $("message").textContent = text;
}

// The case whose data the viewer holds.
const shownCase = () => experiment.cases.find(({ name }) => name === viewer?.caseName);

function renderFrame(current) {
  const cases = experiment.cases;
  const at = cases.indexOf(current);
  $("case-name").textContent = `${current.name}  (${at + 1}/${cases.length})`;
  $("previous").disabled = at === 0;
  $("next").disabled = at === cases.length - 1;
  $("case-reasons").replaceChildren(...current.reasons.map((r) => h(`span.chip.${r.kind}`, {}, reasonText(r))));
  const channels = viewer?.header?.channels ?? [];
  $("channels").replaceChildren(
    ...channels.map(({ name }, i) => {
      const button = h("button.toggle", { type: "button", onclick: () => setChannel(i) }, name);
      button.setAttribute("aria-pressed", i === viewer.channel);
      return button;
    }),
  );
  for (const kind of ["reference", "prediction"]) {
    const button = $(`show-${kind}`);
    button.textContent = t(kind);
    button.hidden = !viewer?.maps?.[kind === "reference" ? "reference" : experiment.name];
    button.setAttribute("aria-pressed", viewer?.show[kind] ?? true);
  }
  $("organ-list").replaceChildren(...(viewer?.header ? REPORT.organs.map((organ) => organRow(current, organ)) : []));
  const keys = ["click", "wheel", "zoom", "window", "large", "channels", "contours", "organ", "case"];
  const values = { count: channels.length, channels: channels.map(({ name }) => name).join(", ") };
  $("help").replaceChildren(...keys.map((key) => h("p", {}, t(`help_${key}`, values))));
}

function organRow(current, organ) {
  const name = organName(organ.name);
  const there = viewer.found.reference?.[organ.name] || viewer.found[experiment.name]?.[organ.name];
  const score = current.scores[organ.name];
  const text = !score ? "" : score.flag ? t(`cell_${score.flag}`) : `${number(score.dsc_percent, 1)} %`;
  const toggle = h("input", { type: "checkbox", title: t("hide", { organ: name }), onchange: () => toggleOrgan(organ.name) });
  toggle.checked = !viewer.hidden.has(organ.name);
  const button = h("button.link", { type: "button", title: t("go_to", { organ: name }), onclick: () => viewer.goTo(organ.name) });
  button.append(swatch(organ), name);
  button.disabled = !there;
  const millimetres = score && !score.flag ? `${number(score.hd95_mm, 1)} mm` : "";
  return h("div.organ", { "data-organ": organ.name }, toggle, button, h("b", {}, text), h("small", {}, millimetres));
}

function setChannel(i) {
  if (i >= viewer.channels.length) return;
  viewer.setChannel(i);
  renderFrame(shownCase());
}

function toggleMap(kind) {
  viewer.show[kind] = !viewer.show[kind];
  viewer.update();
  renderFrame(shownCase());
}

function toggleOrgan(name) {
  if (!viewer.hidden.delete(name)) viewer.hidden.add(name);
  viewer.update();
}

function nextOrgan() {
  const present = REPORT.organs.filter(({ name }) => viewer.found.reference?.[name] || viewer.found[experiment.name]?.[name]);
  const at = present.findIndex(({ name }) => name === nextOrgan.last);
  nextOrgan.last = present[(at + 1) % present.length]?.name;
  if (nextOrgan.last) viewer.goTo(nextOrgan.last);
}

function step(by) {
  const next = experiment.cases[experiment.cases.indexOf(caseOfHash()) + by];
  if (next) goToCase(next.name);
}

function renderPosition() {
  const [x, y, z] = viewer?.header ? viewer.position() : [];
  if (x === undefined) return;
  const part = (mm, axis) => `${LETTERS[axis][mm < 0 ? 0 : 1]} ${Math.abs(mm).toFixed(1)}`;
  $("position").textContent = `${part(x, 0)}   ${part(y, 1)}   ${part(z, 2)} mm`;
}

const KEYS = {
  Escape: () => (location.hash = ""),
  "[": () => step(-1),
  "]": () => step(1),
  r: () => toggleMap("reference"),
  p: () => toggleMap("prediction"),
  n: nextOrgan,
  0: () => viewer.reset(),
  "+": () => viewer.zoom(1.2),
  "=": () => viewer.zoom(1.2),
  "-": () => viewer.zoom(1 / 1.2),
  ArrowUp: () => viewer.scroll(1),
  ArrowDown: () => viewer.scroll(-1),
  "?": () => ($("help").hidden = !$("help").hidden),
};

document.addEventListener(
  "keydown",
  (event) => {
    if ($("viewer").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const channel = Number(key) - 1;
    const action = KEYS[key] ?? (channel >= 0 ? () => setChannel(channel) : null);
    if (!action || (!shownCase() && !["Escape", "[", "]"].includes(key))) return;
    event.preventDefault();
    event.stopPropagation(); // NiiVue has keys of its own
    action();
  },
  true,
);

$("language").addEventListener("click", () => {
  language = language === "en" ? "zh" : "en";
  localStorageSet("language", language);
  renderOverview();
});
$("experiment").addEventListener("change", (event) => chooseExperiment(event.target.value));
$("print").addEventListener("click", () => window.print());
$("close").addEventListener("click", KEYS.Escape);
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("show-reference").addEventListener("click", () => toggleMap("reference"));
$("show-prediction").addEventListener("click", () => toggleMap("prediction"));
$("reset").addEventListener("click", () => viewer?.reset());
$("help-button").addEventListener("click", KEYS["?"]);
window.addEventListener("hashchange", route);

renderOverview();
if (location.hash) route();
