// A picture in, captions beside it, and over it what each word looked at.
import { Refused, ask, element, find, own, percent } from "./server.js";

const UNSURE = 0.3;  // below it a word is marked
const PATIENCE = 250;  // milliseconds between a change of a setting and the question
const frame = find(".look .frame");
const canvas = find("canvas", frame);
let models = [];
let pictures = [];
let current = null;
let asked = null;
let waiting = 0;

export function startTry(about) {
  models = about.models;
  find("#answers").replaceChildren(...models.map((model) => {
    const heading = element("h2", {}, element("span", { textContent: model.name }), element("span", { className: "seconds" }));
    return element("section", { className: "answer" }, heading, element("ol", { className: "captions" }));
  }));
  const usual = models[0].usual;
  find("[name=beam_size]").placeholder = `${usual.beam_size}, as trained`;
  find("[name=length_penalty]").placeholder = `${usual.length_penalty}, as trained`;
  fitSettings();
}

export function tryPicture(blob, name = "") {
  current = { blob, name, address: URL.createObjectURL(blob) };
  pictures.push(current);
  if (pictures.length > 24) URL.revokeObjectURL(pictures.shift().address);
  show();
}

function add(files) {
  for (const file of files) tryPicture(file, file.name);
}

function show() {
  find("#try").classList.add("has-picture");
  find("#tried").hidden = false;
  const image = find("#picture");
  image.onload = () => frame.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  image.src = current.address;
  image.alt = current.name;
  find("#strip").hidden = pictures.length < 2;
  find("#strip").replaceChildren(...pictures.map((one) => {
    const button = element("button", { type: "button", title: one.name, onclick: () => { current = one; show(); } });
    button.append(element("img", { src: one.address, alt: one.name }));
    button.setAttribute("aria-current", String(one === current));
    return button;
  }));
  cool();
  question();
}

// ---- the question ----

async function question() {
  if (!current) return;
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  await Promise.all(models.map((model, number) => askOne(number, signal)));
}

async function askOne(number, signal) {
  const place = find("#answers").children[number];
  const wishes = new URLSearchParams({ model: number, window: own, name: current.name, ...settings() });
  place.classList.add("waiting");
  try {
    const { captions, seconds } = await ask(`api/try?${wishes}`, { body: current.blob, signal });
    find(".seconds", place).textContent = `${seconds.toFixed(1)} s`;
    const lines = captions.length ? captions.map(line) : [element("li", { textContent: "(no words)" })];
    find(".captions", place).replaceChildren(...lines);
  } catch (error) {
    if (error.name === "AbortError" || error.status === 409) return;  // something newer was asked
    if (!(error instanceof Refused)) throw error;
    find(".seconds", place).textContent = "";
    find(".captions", place).replaceChildren(element("li", { className: "problem", textContent: error.message }));
  }
  place.classList.remove("waiting");
  cool();
}

function line(caption) {
  const text = element("p", { className: "caption" });
  let end = 0;
  for (const word of caption.words) {
    const start = caption.text.indexOf(word.text, end);
    if (start < 0) continue;
    text.append(caption.text.slice(end, start), wordOf(word, text.childElementCount === 0));
    end = start + word.text.length;
  }
  text.append(caption.text.slice(end));
  const sure = element("p", { className: "sure" });
  const meter = element("meter", { min: 0, max: 1, value: caption.confidence, ariaLabel: "Confidence" });
  sure.append(meter, `${percent(caption.confidence)} sure`);
  return element("li", {}, text, sure);
}

function wordOf(word, isFirst) {
  const made = element("span", { className: "word", textContent: word.text, tabIndex: isFirst ? 0 : -1 });
  made.title = `${percent(word.confidence)} sure`;
  made.classList.toggle("unsure", word.confidence < UNSURE);
  made.onmouseenter = () => heat(word.heat);
  made.onfocus = () => heat(word.heat);
  made.onmouseleave = () => cool();
  made.onblur = () => cool();
  made.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const words = [...made.parentElement.querySelectorAll(".word")];
    words[words.indexOf(made) + step]?.focus();
    event.preventDefault();
  };
  return made;
}

function heat(encoded) {
  const { clientWidth: width, clientHeight: height } = find("#picture");
  const scale = Math.min(1, 480 / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  drawHeat(canvas, encoded);
  canvas.hidden = false;
  frame.classList.add("heated");
}

function cool() {
  canvas.hidden = true;
  frame.classList.remove("heated");
}

// ---- settings ----

const form = find("#settings");

function settings() {
  const method = form.method.value;
  return Object.fromEntries([...form.elements].filter((one) => one.name && one.value !== "" && fits(one, method)).map((one) => [one.name, one.value]));
}

function fits(one, method) {
  const of = (one.closest("[data-of]") ?? one).dataset.of;
  return !of || of.split(" ").includes(method);
}

function fitSettings() {
  for (const one of form.querySelectorAll("[data-of]")) one.hidden = !fits(one, form.method.value);
}

form.oninput = () => {
  fitSettings();
  clearTimeout(waiting);
  waiting = setTimeout(question, PATIENCE);
};
form.onsubmit = (event) => event.preventDefault();
find("#again").onclick = () => {
  form.seed.value = Number(form.seed.value || 0) + 1;
  question();
};

// ---- pictures: chosen, pasted, dropped, taken ----

find("#files").onchange = (event) => {
  add(event.target.files);
  event.target.value = "";  // the same picture may be chosen again
};
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length === 0) return;
  location.hash = "#try";
  add(event.clipboardData.files);
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find("#try").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) find("#try").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("#try").classList.remove("over");
  if (event.dataTransfer.files.length === 0) return;
  location.hash = "#try";
  add(event.dataTransfer.files);
});

useCamera({
  format: { type: "image/jpeg", quality: 0.95 },
  take: (blob) => tryPicture(blob, "camera.jpg"),
  refused: (error) => {
    find("#hint").textContent = `There is no camera for this page: ${error.message}.`;
    find("#tried").hidden = false;
  },
});
