// The page: pictures in, captions beside them. Captions are text, never markup.

const COUNT = 3;  // captions of a picture, the best and others
const MEGA = 1e6;
const RUNTIME_FILE = "ort-wasm-simd-threaded.wasm";
const find = (selector, within = document) => within.querySelector(selector);
const cards = new Map();  // by number: the element and the picture of each
let newest = 0;
let beamsOfTraining = 0;

function fail(message) {
  find("#failure").textContent = message;
  find("#failure").hidden = false;
  find("#loading").hidden = true;
}

const isServed = location.protocol !== "file:";
if (!isServed) {
  fail("Browsers do not let a page read a model from a file. Serve this folder, for example: python -m http.server, then open http://localhost:8000");
}
const worker = isServed ? new Worker("worker.js", { type: "module" }) : null;
if (worker) {
  worker.onerror = (event) => fail(`The captioner could not be started: ${event.message || "worker.js cannot be read"}.`);
  worker.onmessage = ({ data }) => hear[data.kind](data);
}

// ---- what the worker says ----

const files = new Map();
const hear = {
  progress({ file, loaded, total }) {
    if (!total) return;  // the settings, which say how large the others are
    files.set(file, { loaded, total });
    const sum = (what) => [...files.values()].reduce((all, one) => all + one[what], 0);
    const megabytes = (bytes) => (bytes / MEGA).toFixed(1);
    const part = (isRuntime) => [...files].filter(([name]) => (name === RUNTIME_FILE) === isRuntime)
      .reduce((all, [, one]) => all + one.total, 0);
    find("#loading-progress").value = sum("loaded") / sum("total");
    find("#loading-figures").textContent = `${megabytes(sum("loaded"))} of ${megabytes(sum("total"))} MB`;
    find("#loading-parts").textContent =
      `The model has ${megabytes(part(false))} MB, the program that runs it (ONNX Runtime) ${megabytes(part(true))} MB.`;
    if (sum("loaded") === sum("total")) find("#loading-title").textContent = "Starting the model";
  },
  ready({ beams }) {
    beamsOfTraining = beams;
    const choices = [...new Set([beams, 1, 5])].filter((one) => one > 0).sort((one, other) => one - other);
    find("#beams").replaceChildren(...choices.map((one) => {
      const name = one === 1 ? "1 beam, quick" : `${one} beams${one === beams ? ", as in training" : ""}`;
      return new Option(name, String(one), one === beams, one === beams);
    }));
    find("#loading").hidden = true;
    document.documentElement.dataset.ready = "true";
  },
  failed({ message }) {
    fail(`The model could not be loaded: ${message}. Check that all files of the export are on the server.`);
  },
  captions({ number, captions, seconds }) {
    const card = cards.get(number);
    if (!card) return;  // cleared meanwhile
    const { element } = card;
    element.classList.remove("waiting");
    const [best, ...others] = captions;
    find(".caption", element).textContent = best ? best.text : "(no words)";
    find(".sure", element).hidden = !best;
    find("meter", element).value = best ? best.confidence : 0;
    find(".figure", element).textContent = `${percent(best ? best.confidence : 0)} sure · ${seconds.toFixed(1)} s`;
    find(".words .buttons", element).hidden = !best;
    find("details", element).hidden = others.length === 0;
    find("details ol", element).replaceChildren(...others.map((one) => {
      const line = document.createElement("li");
      for (const text of [one.text, percent(one.confidence)]) {
        line.append(Object.assign(document.createElement("span"), { textContent: text }));
      }
      return line;
    }));
    card.captions = captions;
    element.dataset.captions = JSON.stringify(captions);
  },
  problem({ number, message }) {
    if (!cards.has(number)) return;
    const { element, picture } = cards.get(number);
    element.classList.replace("waiting", "problem");
    const isNone = /decoded|InvalidState|source image/i.test(message);
    find(".caption", element).textContent = isNone ? `${picture.name || "This"} is no picture that this browser can read.` : message;
  },
};

const percent = (share) => `${Math.round(100 * share)} %`;

// ---- pictures ----

function ask(number) {
  const { element, picture } = cards.get(number);
  element.classList.remove("problem");
  element.classList.add("waiting");
  find(".caption", element).textContent = document.documentElement.dataset.ready ? "Looking ..." : "Waiting for the model ...";
  const beams = Number(find("#beams").value || beamsOfTraining);
  worker?.postMessage({ number, picture, beams, count: beams === 1 ? 1 : Math.min(COUNT, beams || COUNT) });
}

function add(pictures) {
  for (const picture of pictures) {
    const element = find("#result").content.cloneNode(true).firstElementChild;
    const number = newest += 1;
    cards.set(number, { element, picture });
    const address = URL.createObjectURL(picture);
    const image = find("img", element);
    image.onload = () => URL.revokeObjectURL(address);
    image.onerror = () => { URL.revokeObjectURL(address); image.hidden = true; };
    image.src = address;
    find(".name", element).textContent = picture.name || "A picture";
    find(".copy", element).onclick = (event) => copy(cards.get(number).captions[0].text, event.currentTarget);
    find("#results").prepend(element);
    ask(number);
  }
  find("#tools").hidden = cards.size === 0;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The browser does not allow it";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

find("#files").onchange = (event) => {
  add(event.target.files);
  event.target.value = "";  // the same picture may be chosen again
};
find("#beams").onchange = () => cards.forEach((_, number) => ask(number));
find("#clear").onclick = () => {
  find("#results").replaceChildren();
  cards.clear();
  find("#tools").hidden = true;
  find("#files").focus();
};
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find("#drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) find("#drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("#drop").classList.remove("over");
  add(event.dataTransfer.files);
});

// ---- camera ----

useCamera({
  format: { type: "image/png" },
  take: (blob) => add([new File([blob], "From the camera", { type: "image/png" })]),
  refused: (error) => {
    find("#open-camera").textContent = error.name === "NotAllowedError" ? "The camera is not allowed" : "No camera was found";
  },
});
