"use strict";

const SHOWN = 60;
const data = JSON.parse(document.getElementById("data").textContent);
const all = data.images.map(([category, label, score, path, picture]) => ({
  category: data.categories[category], label, score, path, picture,
}));
const element = (id) => document.getElementById(id);
const text = (id, value) => { element(id).textContent = value; };
const value = (id) => Math.max(0, Number(element(id).value) || 0);
const percent = (part, whole) => whole ? (100 * part / whole).toFixed(1) : "\u2013";

let images = all;
let steps = [];  // one threshold between any two neighbouring scores, and one beyond either end
let threshold = data.threshold;

function selectImages() {
  const category = element("category")?.value ?? "";
  images = category ? all.filter((image) => image.category === category) : all;
  const scores = [...new Set(images.map((image) => image.score))].sort((a, b) => a - b);
  const margin = scores.length > 1 ? 0.01 * (scores[scores.length - 1] - scores[0]) : 1;
  steps = scores.map((score, index) => index ? (scores[index - 1] + score) / 2 : score - margin);
  if (scores.length) steps.push(scores[scores.length - 1] + margin);
  element("slider").max = Math.max(0, steps.length - 1);
  if (threshold === null && steps.length) threshold = steps[Math.floor(steps.length / 2)];
  drawHistogram();
}

function count(at) {
  const counts = { goods: 0, defects: 0, alarms: 0, misses: 0 };
  for (const image of images) {
    if (image.label) { counts.defects += 1; counts.misses += image.score <= at; }
    else { counts.goods += 1; counts.alarms += image.score > at; }
  }
  return counts;
}

// Expected cost of 1000 parts; a rate that these images do not tell counts as zero.
function cost({ goods, defects, alarms, misses }) {
  const share = Math.min(1, value("share") / 100);
  const missed = share * value("miss-cost") * (defects ? misses / defects : 0);
  return 1000 * (missed + (1 - share) * value("alarm-cost") * (goods ? alarms / goods : 0));
}

// One pass from the lowest threshold, at which all images are called defective, upwards.
function cheapestThreshold() {
  const sorted = [...images].sort((a, b) => a.score - b.score);
  const counts = count(-Infinity);
  let [next, best, least] = [0, threshold, Infinity];
  for (const step of steps) {
    for (; next < sorted.length && sorted[next].score <= step; next += 1) {
      if (sorted[next].label) counts.misses += 1; else counts.alarms -= 1;
    }
    const costs = cost(counts);
    if (costs < least) [best, least] = [step, costs];
  }
  return best;
}

function drawHistogram() {
  const svg = element("histogram");
  svg.replaceChildren();
  if (!steps.length) return;
  const [low, high, bins] = [steps[0], steps[steps.length - 1], 60];
  for (const [label, color] of [[0, "#4878a8"], [1, "#dd6b35"]]) {
    const heights = new Array(bins).fill(0);
    for (const image of images) {
      if (image.label === label) heights[Math.min(bins - 1, Math.floor(bins * (image.score - low) / (high - low)))] += 1;
    }
    const scale = 90 / Math.max(1, ...heights);
    heights.forEach((height, bin) => addShape(svg, "rect", {
      x: 10 * bin, width: 9.5, y: 90 - scale * height, height: scale * height, fill: color, opacity: 0.6,
    }));
  }
  addShape(svg, "line", { id: "mark", y1: 0, y2: 90, stroke: "#263238", "stroke-width": 2 });
}

function addShape(svg, name, attributes) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, content] of Object.entries(attributes)) shape.setAttribute(key, content);
  svg.append(shape);
}

function showChanged() {
  const list = element("changed");
  list.replaceChildren();
  if (data.threshold === null) {
    text("changed-note", "The model has no threshold.");
    return;
  }
  const changed = images.filter((image) => image.score > data.threshold !== image.score > threshold);
  changed.sort((a, b) => Math.abs(a.score - data.threshold) - Math.abs(b.score - data.threshold));
  const right = changed.filter((image) => (image.score > threshold) === (image.label === 1)).length;
  const more = changed.length > SHOWN ? ` The ${SHOWN} nearest to the threshold of the model are shown.` : "";
  text("changed-note", `${changed.length} images: ${right} become right, ${changed.length - right} become wrong.${more}`);
  for (const image of changed.slice(0, SHOWN)) list.append(card(image));
}

function card(image) {
  const figure = document.createElement("figure");
  if (image.picture) {
    const picture = document.createElement("img");
    picture.src = image.picture;
    picture.alt = image.path;
    figure.append(picture);
  }
  const caption = document.createElement("figcaption");
  const name = document.createElement("b");
  name.textContent = image.category;
  const kind = image.label ? "defective" : "good";
  const called = image.score > threshold ? "defective" : "good";
  caption.append(name, ` ${kind}, now called ${called}, score ${image.score.toPrecision(4)} `, image.path);
  figure.append(caption);
  return figure;
}

function show() {
  const counts = count(threshold);
  text("true-negatives", counts.goods - counts.alarms);
  text("false-alarms", counts.alarms);
  text("misses", counts.misses);
  text("hits", counts.defects - counts.misses);
  text("false-alarm-rate", percent(counts.alarms, counts.goods));
  text("miss-rate", percent(counts.misses, counts.defects));
  text("cost", cost(counts).toPrecision(4));
  const deployed = data.threshold === null ? "" : `, at the threshold of the model ${cost(count(data.threshold)).toPrecision(4)}`;
  text("deployed-cost", deployed);
  if (steps.length) {
    const place = 600 * (threshold - steps[0]) / (steps[steps.length - 1] - steps[0]);
    for (const end of ["x1", "x2"]) element("mark").setAttribute(end, place);
  }
  showChanged();
}

function setThreshold(to) {
  if (!Number.isFinite(to)) return;
  threshold = to;
  element("threshold").value = Number(to.toPrecision(6));
  const above = steps.findIndex((step) => step >= to);
  element("slider").value = above < 0 ? steps.length - 1 : above;
  show();
}

element("slider").addEventListener("input", (event) => {
  threshold = steps[Number(event.target.value)];
  element("threshold").value = Number(threshold.toPrecision(6));
  show();
});
element("threshold").addEventListener("change", (event) => setThreshold(parseFloat(event.target.value)));
element("deployed").addEventListener("click", () => setThreshold(data.threshold));
element("cheapest").addEventListener("click", () => setThreshold(cheapestThreshold()));
element("category")?.addEventListener("change", () => { selectImages(); setThreshold(threshold); });
for (const id of ["miss-cost", "alarm-cost", "share"]) element(id).addEventListener("input", show);

selectImages();
if (threshold !== null) setThreshold(threshold); else show();
