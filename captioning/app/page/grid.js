// A grid of any number of cells, of which only those in sight exist.
import { element } from "./server.js";

const GAP = 12;
const BELOW = 84;  // pixels of words under a picture
const SPARE = 2;  // rows beyond what is seen

export class Grid {
  #cells = new Map();  // by place
  #spare = [];
  #frame = 0;

  constructor(box, { fill, seen, chosen }) {
    Object.assign(this, { box, room: box.firstElementChild, fill, seen, chosen });
    this.count = 0;
    this.place = 0;
    this.width = 200;
    box.addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => this.#fit()).observe(box);
    box.addEventListener("mousedown", (event) => {
      const cell = event.target.closest(".cell");
      if (cell) this.choose(Number(cell.dataset.place));
    });
  }

  // Begin anew with so many cells.
  reset(count, place = 0) {
    this.count = count;
    this.place = Math.max(0, Math.min(place, count - 1));
    for (const [key] of this.#cells) this.#drop(key);
    this.#fit();
    this.#reveal();
  }

  resize(width) {
    this.width = width;
    this.#fit();
    this.#reveal();
  }

  // Make a cell the chosen one, in sight.
  choose(place) {
    if (this.count === 0) return;
    const next = Math.max(0, Math.min(place, this.count - 1));
    const before = this.place;
    this.place = next;
    this.#select(before);
    this.#select(next);
    this.#reveal();
    this.chosen(next);
  }

  // Where a key leads from here; undefined for any other.
  target(key) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.#height)) * this.columns;
    return {
      ArrowRight: this.place + 1, ArrowLeft: this.place - 1, ArrowDown: this.place + this.columns,
      ArrowUp: this.place - this.columns, Home: 0, End: this.count - 1, PageDown: this.place + page,
      PageUp: this.place - page,
    }[key];
  }

  // Fill the cells that are there anew.
  refresh() {
    for (const [place, cell] of this.#cells) this.fill(cell, place);
  }

  range() {
    const rows = Math.ceil(this.count / this.columns);
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.#height) - SPARE);
    const last = Math.min(rows, Math.ceil((this.box.scrollTop + this.box.clientHeight) / this.#height) + SPARE);
    return [first * this.columns, Math.min(this.count, last * this.columns)];
  }

  get #height() { return this.#side + BELOW + GAP; }
  get #side() { return Math.round(this.cellWidth * 0.75); }

  #fit() {
    const inside = this.box.clientWidth - 2 * GAP;
    if (inside <= 0) return;
    const first = this.columns ? Math.floor(this.box.scrollTop / this.#height) * this.columns : 0;
    const before = this.columns;
    const width = Math.min(this.width, (inside - GAP) / 2);  // two beside each other on a phone
    this.columns = Math.max(1, Math.floor((inside + GAP) / (width + GAP)));
    this.cellWidth = Math.floor((inside - GAP * (this.columns - 1)) / this.columns);
    this.room.style.height = `${Math.ceil(this.count / this.columns) * this.#height + GAP}px`;
    if (before && before !== this.columns) this.box.scrollTop = Math.floor(first / this.columns) * this.#height;
    for (const [place, cell] of this.#cells) this.#put(cell, place);
    this.#draw();
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    if (!this.columns) return;
    const [start, end] = this.range();
    for (const [place] of this.#cells) if (place < start || place >= end) this.#drop(place);
    for (let place = start; place < end; place += 1) if (!this.#cells.has(place)) this.#make(place);
    this.seen(start, end);
  }

  #make(place) {
    const cell = this.#spare.pop() ?? blank();
    cell.dataset.place = place;
    cell.id = `cell-${place}`;
    cell.setAttribute("aria-setsize", this.count);
    cell.setAttribute("aria-posinset", place + 1);
    this.#cells.set(place, cell);
    this.#put(cell, place);
    this.#select(place);
    this.fill(cell, place);
    this.room.append(cell);
  }

  #put(cell, place) {
    const column = place % this.columns;
    const x = GAP + column * (this.cellWidth + GAP);
    const y = GAP + Math.floor(place / this.columns) * this.#height;
    cell.style.transform = `translate(${x}px, ${y}px)`;
    cell.style.width = `${this.cellWidth}px`;
    cell.style.height = `${this.#side + BELOW}px`;
  }

  #drop(place) {
    const cell = this.#cells.get(place);
    this.#cells.delete(place);
    cell.remove();
    cell.querySelector("img").removeAttribute("src");  // what is not there yet is not waited for
    this.#spare.push(cell);
  }

  #select(place) {
    const isChosen = place === this.place;
    this.#cells.get(place)?.setAttribute("aria-selected", String(isChosen));
    if (isChosen) this.box.setAttribute("aria-activedescendant", `cell-${place}`);
  }

  #reveal() {
    if (!this.columns) return;
    const top = Math.floor(this.place / this.columns) * this.#height;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + this.#height + GAP > scrollTop + clientHeight) this.box.scrollTop = top + this.#height + GAP - clientHeight;
    this.#draw();
  }
}

function blank() {
  const thumb = element("div", { className: "thumb" }, element("img", { alt: "", decoding: "async", draggable: false }));
  const foot = element("div", { className: "foot" }, element("div", { className: "share" }), element("span"));
  const cell = element("div", { className: "cell" }, thumb, element("p", { className: "words" }), foot, element("span", { className: "mark" }));
  cell.setAttribute("role", "option");
  return cell;
}
