// A captioner in the browser: pictures to pixels, pixels to captions. The same steps, in the same
// arithmetic, as caption.py of the project's ONNX export; `captioner.json` says how.

import * as ort from "./ort.wasm.min.mjs";

const RUNTIME = "ort-wasm-simd-threaded";
const LONGEST_TO_SHORTEST = 100;  // a longer picture is cut to its middle
const PRECISION = 22;             // bits of the resampling weights behind the point
const CONTROL = /[\x00-\x1f\x7f-\x9f\u2028\u2029]+/g;
const BIDI = /[\u202a-\u202e\u2066-\u2069]+/g;

export class Captioner {
  // Reads all files beside `base`; `told({file, loaded, total})` hears how much has come.
  static async load(base, told) {
    const read = (name, total) => readFile(new URL(name, base), (loaded) => told({ file: name, loaded, total }));
    const text = new TextDecoder();
    const settings = JSON.parse(text.decode(await read("captioner.json")));
    const size = (name) => settings.sizes[name];
    const [wasm, encoder, decoder, vocabulary] = await Promise.all(
      [`${RUNTIME}.wasm`, "encoder.onnx", "decoder.onnx", "tokenizer.json"].map((name) => read(name, size(name))),
    );
    ort.env.wasm.numThreads = 1;  // more need headers that few static servers send
    ort.env.wasm.wasmPaths = { mjs: new URL(`${RUNTIME}.mjs`, base).href, wasm: new URL(`${RUNTIME}.wasm`, base).href };
    ort.env.wasm.wasmBinary = wasm;
    const options = { executionProviders: ["wasm"] };
    return new Captioner(
      settings,
      await ort.InferenceSession.create(encoder, options),
      await ort.InferenceSession.create(decoder, options),
      new Vocabulary(JSON.parse(text.decode(vocabulary))),
    );
  }

  constructor(settings, encoder, decoder, vocabulary) {
    Object.assign(this, { settings, encoder, decoder, vocabulary });
  }

  // The best captions of an ImageBitmap, best first: [{text, log_probability, confidence}].
  async caption(bitmap, beams, count) {
    const { search, preprocessing } = this.settings;
    const width = Math.max(beams || search.beam_size, count);
    const state = await this.read(pixelsOf(imageOf(bitmap), preprocessing));
    const rows = width === 1 ? await greedy(state, search) : await beamSearch(state, search, width, count);
    return rows.slice(0, count).map((row) => this.captionOf(row));
  }

  async read(pixels) {
    const { height, width } = this.settings.preprocessing;
    const memory = await this.encoder.run({ pixels: new ort.Tensor("uint8", pixels, [1, 3, height, width]) });
    return new State(this, memory);
  }

  captionOf(row) {
    const special = new Set(this.settings.search.special_ids);
    const text = this.vocabulary.decode(row.tokens.filter((token) => !special.has(token)));
    const total = row.logProbabilities.reduce((sum, one) => sum + one, 0);
    return {
      text: text.replace(BIDI, "").replace(CONTROL, " ").trim(),
      log_probability: total,
      confidence: Math.exp(total / row.logProbabilities.length),
    };
  }
}

async function readFile(address, told) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address.pathname.split("/").pop()} cannot be read (${answer.status})`);
  const parts = [];
  let loaded = 0;
  const reader = answer.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    loaded += part.value.length;
    told(loaded);
  }
  const whole = new Uint8Array(loaded);
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.length;
  }
  return whole;
}

// ---- captions ----

// The decoder on one picture: reads a token of each row, remembers those before.
class State {
  constructor(captioner, memory) {
    Object.assign(this, { decoder: captioner.decoder, memory, past: {} });
    const inputs = captioner.settings.graphs["decoder.onnx"].inputs;
    for (const [name, [, heads, , width]] of Object.entries(inputs).filter(([name]) => name.startsWith("past."))) {
      this.past[name] = new ort.Tensor("float32", new Float32Array(0), [1, heads, 0, width]);
    }
  }

  // Log-probabilities (rows x vocabulary) of what follows the newest token of each row.
  async step(tokens, rows) {
    const whole = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const found = await this.decoder.run({ tokens: whole(tokens), rows: whole(rows), ...this.memory, ...this.past });
    for (const name of Object.keys(this.past)) this.past[name] = found[name.replace("past.", "cache.")];
    return found.log_probabilities.data;
  }
}

const extend = (row, token, logProbability, score) => ({
  tokens: [...row.tokens, token],
  logProbabilities: [...row.logProbabilities, logProbability],
  score,
});
const EMPTY = { tokens: [], logProbabilities: [], score: 0 };

// The likeliest token each time, until the end.
async function greedy(state, search) {
  let row = EMPTY;
  let token = search.start_id;
  for (let length = 1; length <= search.max_length; length += 1) {
    const scores = allowed(await state.step([token], [0]), [row], search);
    token = bestPlaces(scores, 1)[0];
    row = extend(row, token, scores[token], 0);
    if (token === search.end_id) break;
  }
  return [row];
}

// The likeliest captions for their length. A step weighs the 2 * width likeliest continuations of
// the open rows. Those of the first `width` that end are finished, the likeliest `width` that do
// not end go on, until the best of them, for its length, is no better than the worst finished one.
// (`early_stop` may say otherwise.)
async function beamSearch(state, search, width, wanted) {
  let rows = [EMPTY];
  let parents = [0];
  let newest = [search.start_id];
  let finished = [];
  for (let length = 1; length <= search.max_length; length += 1) {
    const scores = allowed(await state.step(newest, parents), rows, search);
    const vocabulary = scores.length / rows.length;
    const totals = new Float32Array(scores.length);
    rows.forEach((row, r) => {
      for (let t = r * vocabulary; t < (r + 1) * vocabulary; t += 1) totals[t] = scores[t] + row.score;
    });
    const drafts = bestPlaces(totals, Math.min(2 * width, totals.length)).map((place) => {
      const parent = Math.floor(place / vocabulary);
      const row = extend(rows[parent], place % vocabulary, scores[place], totals[place]);
      return { parent, row, ends: place % vocabulary === search.end_id };
    });
    const byLength = Math.fround(length ** search.length_penalty);
    for (const { row, ends } of drafts.slice(0, width)) {
      if (ends || length === search.max_length) finished.push({ ...row, score: Math.fround(row.score / byLength) });
    }
    finished = finished.sort((one, other) => other.score - one.score).slice(0, width);
    const goingOn = drafts.filter((draft) => !draft.ends).slice(0, width);
    parents = goingOn.map((draft) => draft.parent);
    rows = goingOn.map((draft) => draft.row);
    newest = rows.map((row) => row.tokens.at(-1));
    if (!rows.length || isDone(rows, finished, length, width, wanted, search)) break;
  }
  return finished.filter((row) => row.score > -Infinity);
}

// Whether no open row of so many tokens may still beat a finished one that counts.
function isDone(rows, finished, length, width, wanted, search) {
  const isExact = search.early_stop === "exact";
  const counting = isExact ? wanted : width;
  if (finished.length < counting) return false;
  const penalty = search.length_penalty;
  const bound = Math.fround((isExact && penalty > 0 ? search.max_length : length) ** penalty);
  const bestOpen = Math.fround(Math.max(...rows.map((row) => row.score)) / bound);
  return search.early_stop === "first" || bestOpen <= finished[counting - 1].score;
}

// Scores (rows x vocabulary) of what follows the rows, -Infinity where it must not; in place.
function allowed(scores, rows, search) {
  const { forbidden_ids, end_id, min_length, no_repeat_ngram: size } = search;
  const vocabulary = scores.length / rows.length;
  rows.forEach(({ tokens }, r) => {
    const own = scores.subarray(r * vocabulary, (r + 1) * vocabulary);
    const end = own[end_id];
    for (const id of forbidden_ids) own[id] = -Infinity;
    for (let start = 0; size && start + size <= tokens.length; start += 1) {
      const newest = tokens.length - size + 1;
      const isRepeat = (place) => tokens[start + place] === tokens[newest + place];
      if ([...Array(size - 1).keys()].every(isRepeat)) own[tokens[start + size - 1]] = -Infinity;
    }
    own[end_id] = -Infinity;
    if (tokens.length >= min_length || own.every((one) => one === -Infinity)) own[end_id] = end;
  });
  return scores;
}

// Where the `count` largest values stand, the largest first; of equal ones the first.
function bestPlaces(values, count) {
  const best = [];
  for (let place = 0; place < values.length; place += 1) {
    if (best.length === count && !(values[place] > values[best[count - 1]])) continue;
    let rank = best.length;
    while (rank > 0 && values[place] > values[best[rank - 1]]) rank -= 1;
    best.splice(rank, 0, place);
    if (best.length > count) best.pop();
  }
  return best;
}

// ---- text ----

// Tokens to text: each letter of a token stands for a byte (byte-level BPE).
class Vocabulary {
  constructor(tokenizer) {
    this.pieces = [];
    for (const [piece, id] of Object.entries(tokenizer.model.vocab)) this.pieces[id] = piece;
    this.bytes = new Map();
    let shifted = 256;
    for (let byte = 0; byte < 256; byte += 1) {
      const isPlain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      this.bytes.set(String.fromCodePoint(isPlain ? byte : shifted), byte);
      shifted += isPlain ? 0 : 1;
    }
  }

  decode(ids) {
    const letters = [...ids.map((id) => this.pieces[id]).join("")];
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(letters, (one) => this.bytes.get(one)));
  }
}

// ---- pictures ----

// RGB of a picture, transparency laid on white: {width, height, data}, three bytes a pixel.
function imageOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  const data = new Uint8Array(bitmap.width * bitmap.height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return { width: bitmap.width, height: bitmap.height, data };
}

// Pixels (3, height, width): resized, then cut to the middle, or laid on black where it is smaller.
export function pixelsOf(image, how) {
  const most = Math.min(image.width, image.height) * LONGEST_TO_SHORTEST;
  const cut = middle(image, Math.min(image.width, most), Math.min(image.height, most));
  let [width, height] = [how.resized_width, how.resized_height];
  if (how.shortest_edge) {
    const edge = how.shortest_edge;
    const long = Math.floor((edge * Math.max(cut.width, cut.height)) / Math.min(cut.width, cut.height));
    [width, height] = cut.width <= cut.height ? [edge, long] : [long, edge];
  }
  const { data } = middle(resize(cut, width, height, how.resample), how.width, how.height);
  const area = how.width * how.height;
  const pixels = new Uint8Array(3 * area);
  for (let place = 0; place < area; place += 1) {
    for (let channel = 0; channel < 3; channel += 1) pixels[channel * area + place] = data[3 * place + channel];
  }
  return pixels;
}

function middle(image, width, height) {
  if (width === image.width && height === image.height) return image;
  const left = Math.floor((image.width - width) / 2);
  const top = Math.floor((image.height - height) / 2);
  const data = new Uint8Array(3 * width * height);
  for (let y = Math.max(0, -top); y < Math.min(height, image.height - top); y += 1) {
    const [first, last] = [Math.max(0, -left), Math.min(width, image.width - left)];
    const from = 3 * ((y + top) * image.width + left);
    data.set(image.data.subarray(from + 3 * first, from + 3 * last), 3 * (y * width + first));
  }
  return { width, height, data };
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));
const FILTERS = {  // as Pillow has them: how far one reaches, and its weight at a distance
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(x * Math.PI)))],
  bicubic: [2, (x) => {
    const [a, d] = [-0.5, Math.abs(x)];
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

// Pillow's resizing of 8-bit pictures: across, rounded to 8 bits, then down.
export function resize(image, width, height, resample) {
  if (resample === "nearest") return nearest(image, width, height);
  const [reach, filter] = FILTERS[resample];
  let found = image;
  if (width !== image.width) {
    found = { width, height: image.height, data: new Uint8Array(3 * width * image.height) };
    weigh(image, found, weightsOf(image.width, width, reach, filter), 3, 3 * image.width, 3 * width, image.height);
  }
  if (height !== image.height) {
    const across = found;
    found = { width, height, data: new Uint8Array(3 * width * height) };
    weigh(across, found, weightsOf(image.height, height, reach, filter), 3 * width, 3, 3, width);
  }
  return found;
}

// For each place of the new axis where its sum begins, and the weights, in whole numbers.
function weightsOf(oldLength, newLength, reach, filter) {
  const scale = oldLength / newLength;
  const stretch = Math.max(scale, 1);
  const support = reach * stretch;
  return Array.from({ length: newLength }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const stop = Math.min(oldLength, Math.trunc(centre + support + 0.5));
    const inverse = 1 / stretch;
    const raw = Array.from({ length: stop - start }, (_, x) => filter((x + start - centre + 0.5) * inverse));
    const sum = raw.reduce((one, other) => one + other, 0);
    const weights = raw.map((one) => {
      const share = (sum === 0 ? one : one / sum) * 2 ** PRECISION;
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    return { start, weights };
  });
}

// Sums along an axis: `step` bytes from place to place in both pictures, `lines` lines that lie
// `oldLine` and `newLine` bytes apart.
function weigh(from, to, places, step, oldLine, newLine, lines) {
  for (let line = 0; line < lines; line += 1) {
    places.forEach(({ start, weights }, place) => {
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = 2 ** (PRECISION - 1);
        let at = line * oldLine + start * step + channel;
        for (let x = 0; x < weights.length; x += 1, at += step) sum += from.data[at] * weights[x];
        const level = Math.floor(sum / 2 ** PRECISION);
        to.data[line * newLine + place * step + channel] = Math.max(0, Math.min(255, level));
      }
    });
  }
}

function nearest(image, width, height) {
  const data = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor(((y + 0.5) * image.height) / height);
    for (let x = 0; x < width; x += 1) {
      const from = 3 * (row * image.width + Math.floor(((x + 0.5) * image.width) / width));
      data.set(image.data.subarray(from, from + 3), 3 * (y * width + x));
    }
  }
  return { width, height, data };
}
