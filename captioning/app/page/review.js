// A folder's captions, looked at one after another: least confident first, by keyboard all through.
import { Refused, ask, element, find, own, percent } from "./server.js";
import { Grid } from "./grid.js";

const NAMES = { all: "All", unreviewed: "Unreviewed", edited: "Edited", accepted: "Accepted", flagged: "Flagged" };
const MARKS = { edited: "Edited", accepted: "Accepted", flagged: "Flagged" };
const NEWS_EVERY = 1000;  // milliseconds
const SETTLED_AFTER = 70;  // of scrolling
const MOST_KEPT = 6000;  // pictures of which this page knows what is said
const pane = find("#pane");
const field = find("#text");
const state = { filter: "all", search: "", stamp: "", numbers: [], news: 0, drafted: 0, touched: false };
const items = new Map();  // by number
let album = null;
let grid = null;
let toTry = null;
let editing = null;  // { item, text }: what stood there when the field was entered
let shown = null;  // the number in the pane
let work = Promise.resolve();  // changes go one after another
let settling = 0;
let asking = null;

export function startReview(about, tryOne) {
  album = about.album;
  toTry = tryOne;
  find("#no-folder").hidden = Boolean(album);
  find("#desk").hidden = !album;
  if (!album) return;
  grid = new Grid(find("#grid"), { fill, seen, chosen: showPane });
  const size = Number(localStorage.getItem("zoom")) || 220;
  find("#zoom").value = size;
  grid.width = size;
  find("#filters").append(...Object.keys(NAMES).map((name) => {
    const button = element("button", { type: "button", onclick: () => { state.filter = name; order(); } }, NAMES[name], element("small"));
    button.dataset.filter = name;
    return button;
  }));
  order();
  setTimeout(news, NEWS_EVERY);
}

export function showReview() {
  if (!album) return;
  find("#grid").focus();
}

// ---- what is there ----

async function order({ keep = false } = {}) {
  const kept = keep ? state.numbers[grid.place] : undefined;
  const wanted = new URLSearchParams({ filter: state.filter, search: state.search });
  const found = await quietly(ask(`api/order?${wanted}`));
  if (!found || (wanted.get("filter") !== state.filter || wanted.get("search") !== state.search)) return;
  if (found.stamp !== state.stamp) items.clear();
  Object.assign(state, { numbers: found.numbers, stamp: found.stamp, touched: false });
  state.sorted = state.drafted;
  find("#sort").hidden = true;
  tellCounts(found.counts);
  shown = null;
  const place = kept === undefined ? 0 : Math.max(0, state.numbers.indexOf(kept));
  grid.reset(found.numbers.length, place);
  const isEmpty = found.numbers.length === 0;
  find("#no-pictures").hidden = !isEmpty;
  find("#no-pictures").textContent = state.search ? `Nothing here is called or captioned “${state.search}”.` : "There are no such pictures yet.";
  pane.hidden = isEmpty;
  if (!isEmpty) showPane(grid.place);
}

function tellCounts(counts) {
  for (const button of find("#filters").children) {
    find("small", button).textContent = counts[button.dataset.filter].toLocaleString("en");
    button.setAttribute("aria-pressed", String(button.dataset.filter === state.filter));
  }
}

function seen() {
  clearTimeout(settling);
  settling = setTimeout(load, SETTLED_AFTER);
}

async function load() {
  const [start, end] = grid.range();
  const numbers = state.numbers.slice(start, end).filter((number) => !items.has(number));
  if (numbers.length === 0) return;
  asking?.abort();
  asking = new AbortController();
  const found = await fetchItems(numbers, asking.signal);
  if (found) update(found);
}

async function fetchItems(numbers, signal) {
  try {
    return await ask(`api/items?stamp=${state.stamp}&numbers=${numbers.join(",")}`, { signal });
  } catch (error) {
    if (error.name === "AbortError") return null;
    if (error.status === 410) await order();  // the program was started anew
    return null;
  }
}

function update(found) {
  for (const item of found) {
    items.delete(item.number);
    items.set(item.number, item);
  }
  for (const number of items.keys()) {
    if (items.size <= MOST_KEPT) break;
    items.delete(number);
  }
  grid.refresh();
  if (found.some((item) => item.number === state.numbers[grid.place])) showPane(grid.place);
}

async function news() {
  if (!document.hidden) {
    const found = await quietly(ask(`api/news?since=${state.news}`));
    if (found) await hear(found);
  }
  setTimeout(news, NEWS_EVERY);
}

async function hear(found) {
  if (found.stamp !== state.stamp) {
    state.news = 0;
    if (!editing) await order();
    return;
  }
  tellCounts(found.counts);
  tellDrafts(found.drafts);
  const changed = found.changed ?? [...items.keys()];
  state.news = found.newest;
  const known = changed.filter((number) => items.has(number));
  if (found.changed === null) {
    items.clear();
    await load();
  } else if (known.length) {
    const fresh = await fetchItems(known.slice(-400));
    if (fresh) update(fresh);
  }
}

function tellDrafts(drafts) {
  if (!drafts) return;
  state.drafted = drafts.done;
  const place = find("#drafts");
  const isDone = drafts.done >= drafts.total;
  place.hidden = isDone && !drafts.problem;
  find("progress", place).value = drafts.done / drafts.total;
  find("span", place).textContent = drafts.problem || (drafts.reading ? "reading captions" : `${drafts.done.toLocaleString("en")} of ${drafts.total.toLocaleString("en")} captioned`);
  find("#pause").hidden = isDone || drafts.reading;
  find("#pause").textContent = drafts.on && !drafts.problem ? "Pause" : "Go on";
  find("#pause").dataset.on = String(drafts.on && !drafts.problem);
  const more = drafts.done - (state.sorted ?? 0);
  if (more > 0 && (isDone || !drafts.running) && !state.touched && !editing && state.filter === "all") {
    state.sorted = drafts.done;
    order();
    return;
  }
  find("#sort").hidden = more <= 0;
  find("#sort").textContent = `Sort again (${more.toLocaleString("en")} new)`;
}

// ---- what is shown ----

function fill(cell, place) {
  const item = items.get(state.numbers[place]);
  const words = find(".words", cell);
  const image = find("img", cell);
  cell.dataset.status = item?.status ?? "";
  cell.setAttribute("aria-label", item ? `${item.text || item.problem || "no caption yet"}. ${item.status || "unreviewed"}. ${item.name}` : "…");
  find(".mark", cell).textContent = MARKS[item?.status] ?? "";
  words.className = `words${!item || item.text ? "" : item.problem ? " problem" : " empty"}`;
  words.textContent = item ? item.text || item.problem || "no caption yet" : "";
  const isKnown = item && item.confidence !== null;
  find(".share", cell).style.setProperty("--share", isKnown ? percent(item.confidence).replace(" ", "") : "0%");
  find(".foot span", cell).textContent = isKnown ? percent(item.confidence) : "";
  cell.title = item ? `${item.name}${isKnown ? `, ${percent(item.confidence)} sure` : ""}` : "";
  if (!item) {
    image.removeAttribute("src");
  } else {
    const address = `picture/small/${item.number}?v=${item.changed}`;
    if (image.getAttribute("src") !== address) image.src = address;
  }
}

function showPane(place) {
  const number = state.numbers[place];
  const item = items.get(number);
  if (editing && editing.item.number !== number) save();
  if (shown !== number) find("#conflict").hidden = true;
  find(".large img", pane).alt = item?.name ?? "";
  if (!item) return;
  const address = `picture/large/${number}?v=${item.changed}`;
  const image = find(".large img", pane);
  if (image.getAttribute("src") !== address) image.src = address;
  find(".name", pane).textContent = item.name;
  if (!editing) field.value = item.text;
  find(".state", pane).textContent = MARKS[item.status] ?? "Unreviewed";
  const isKnown = item.confidence !== null;
  find(".sure meter", pane).hidden = !isKnown;
  find(".sure meter", pane).value = item.confidence ?? 0;
  find(".sure .figure", pane).textContent = isKnown ? `${percent(item.confidence)} sure of its draft` : item.problem;
  const isOther = item.draft && item.status && item.text !== item.draft;
  find(".drafted", pane).hidden = !isOther;
  find(".drafted span", pane).textContent = isOther ? `Draft: ${item.draft}` : "";
  shown = number;
}

let quiet = 0;
function tell(message) {
  const place = find("#told");
  place.textContent = message;
  place.classList.add("shown");
  clearTimeout(quiet);
  quiet = setTimeout(() => place.classList.remove("shown"), 2500);
}

// ---- what is said ----

const chosenItem = () => items.get(state.numbers[grid.place]);

function say(item, status, text, message) {
  work = work.then(async () => {
    // Changes of this window that went before have made the picture's version a newer one.
    const newest = items.get(item.number);
    const version = newest?.own > item.version ? newest.version : item.version;
    try {
      const answer = await ask("api/say", { send: { name: item.name, version, status, text, window: own } });
      take(answer.item);
      tell(message);
    } catch (error) {
      const holds = error.status === 409 && error.body.item;
      if (holds && holds.status === status && holds.text === text) take(holds);  // the answer was lost
      else if (holds) conflict(holds, status, text);
      else if (error instanceof Refused) tell(error.message);
      else throw error;
      if (error.status !== 409 && status === "edited") giveBack(item, text);
    }
  });
  return work;
}

function take(item) {
  item.own = item.version;
  update([item]);
}

function giveBack(item, text) {
  // What could not be saved is in the field again, to be saved once more.
  const place = state.numbers.indexOf(item.number);
  if (place < 0) return;
  if (grid.place !== place) grid.choose(place);
  field.focus();
  field.value = text;
}

function conflict(item, status, text) {
  const place = state.numbers.indexOf(item.number);
  update([item]);
  if (place >= 0) grid.choose(place);
  const box = find("#conflict");
  const shownText = (words, what) => `${words || "no caption"}${MARKS[what] ? ` (${MARKS[what].toLowerCase()})` : ""}`;
  find(".theirs", box).textContent = shownText(item.text, item.status);
  find(".mine", box).textContent = shownText(text, status);
  find(".keep-theirs", box).onclick = () => { box.hidden = true; find("#grid").focus(); };
  find(".keep-mine", box).onclick = () => {
    box.hidden = true;
    say(item, status, text, "Kept yours.");
    find("#grid").focus();
  };
  box.hidden = false;
  find(".keep-theirs", box).focus();
}

function accept() {
  const item = chosenItem();
  if (!item) return;
  if (!item.text) { tell("There is no caption to accept yet. Enter writes one."); return; }
  state.touched = true;
  if (item.status === "accepted") say(item, item.text === item.draft ? "" : "edited", item.text, "No longer accepted.");
  else { say(item, "accepted", item.text, "Accepted. U takes it back."); next(); }
}

function flag() {
  const item = chosenItem();
  if (!item) return;
  state.touched = true;
  if (item.status === "flagged") say(item, item.text && item.text !== item.draft ? "edited" : "", item.text, "No longer flagged.");
  else { say(item, "flagged", item.text, "Flagged: left out of what is learnt. U takes it back."); next(); }
}

function undo() {
  const stood = grid.place;
  state.touched = true;
  work = work.then(async () => {
    try {
      const { item } = await ask("api/undo", { send: { window: own } });
      if (!item) { tell("There is nothing to undo."); return; }
      take(item);
      const place = state.numbers.indexOf(item.number);
      // Who has gone elsewhere meanwhile, or writes, is left in peace.
      if (place >= 0 && grid.place === stood && !editing) grid.choose(place);
      tell(`Taken back: ${item.name}`);
    } catch (error) {
      if (error.status === 409) { update([error.body.item]); tell(`Another window has changed ${error.body.item.name} since; it stays as it is.`); }
      else if (error instanceof Refused) tell(error.message);
      else throw error;
    }
  });
}

function next() {
  grid.choose(grid.place + 1);
}

// ---- the field ----

field.onfocus = () => {
  const item = chosenItem();
  if (item) editing = { item, text: item.text };
};
field.onblur = () => save();
field.onkeydown = (event) => {
  if (event.key === "Enter" && !event.isComposing) {
    event.preventDefault();
    save();
    find("#grid").focus();
    next();
  } else if (event.key === "Escape") {
    field.value = editing?.text ?? field.value;
    editing = null;
    find("#grid").focus();
    showPane(grid.place);
  }
  event.stopPropagation();
};

function save() {
  const was = editing;
  editing = null;
  if (!was) return;
  const text = field.value.split(/\s+/).filter(Boolean).join(" ");
  if (text === was.text) return;
  state.touched = true;
  say(was.item, "edited", text, "Saved. U takes it back.");
}
addEventListener("pagehide", save);

// ---- keys and buttons ----

const keys = find("#keys");
const acts = {
  Enter: () => { field.focus(); field.setSelectionRange(field.value.length, field.value.length); },
  a: accept, f: flag, u: undo, s: () => order({ keep: true }),
  t: () => { const item = chosenItem(); if (item) toTry(item); },
  "/": () => { find("#search").focus(); find("#search").select(); },
  "?": () => keys.showModal(),
};

document.addEventListener("keydown", (event) => {
  if (!album || find("#review").hidden || keys.open || event.altKey || event.metaKey) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  if (event.ctrlKey) {
    if (event.key.toLowerCase() === "z") { event.preventDefault(); undo(); }
    return;
  }
  if (event.target.closest("button, a") && ["Enter", " "].includes(event.key)) return;
  const target = grid.target(event.key);
  const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (target === undefined && !act) return;
  event.preventDefault();
  state.touched = true;
  if (target !== undefined) grid.choose(target);
  else act();
});
find("#grid").addEventListener("dblclick", acts.Enter);
find("#grid").addEventListener("wheel", () => { state.touched = true; }, { passive: true });
find("#grid").addEventListener("mousedown", () => { state.touched = true; });
find("#accept").onclick = accept;
find("#flag").onclick = flag;
find("#undo").onclick = undo;
find("#help").onclick = acts["?"];
find("#sort").onclick = acts.s;
find("button", keys).onclick = () => keys.close();
find(".drafted .plain", pane).onclick = () => {
  const item = chosenItem();
  if (item) say(item, "accepted", item.draft, "The draft was accepted. U takes it back.");
};
find("#pause").onclick = async () => {
  const drafts = await quietly(ask("api/drafting", { send: { on: find("#pause").dataset.on !== "true" } }));
  if (drafts) tellDrafts(drafts);
};
find("#zoom").oninput = (event) => {
  localStorage.setItem("zoom", event.target.value);
  grid.resize(Number(event.target.value));
};
find("#tools").onsubmit = (event) => event.preventDefault();
let typing = 0;
find("#search").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    state.search = find("#search").value.trim();
    order();
  }, 180);
};
find("#search").onkeydown = (event) => {
  if (event.key === "Escape" && !find("#search").value) find("#grid").focus();
  if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); find("#grid").focus(); }
  event.stopPropagation();
};

async function quietly(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Refused || error.name === "AbortError") return null;
    throw error;
  }
}
