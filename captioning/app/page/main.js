// The three parts of the page, one shown at a time; names and captions are text, never markup.
import { ask, find, element } from "./server.js";
import { startTry, tryPicture } from "./try.js";
import { startReview, showReview } from "./review.js";
import { showLearn, startLearn } from "./learn.js";

const parts = ["try", "review", "learn"];
const about = await ask("api/about");

function show() {
  const usual = about.album ? "review" : "try";
  const chosen = parts.includes(location.hash.slice(1)) ? location.hash.slice(1) : usual;
  for (const part of parts) {
    find(`#${part}`).hidden = part !== chosen;
    const link = find(`nav a[href="#${part}"]`);
    if (part === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.body.classList.toggle("reviewing", chosen === "review");
  if (chosen === "review") showReview();
  if (chosen === "learn") showLearn();
}

find("#model").textContent = about.models.map((one) => one.name).join("  ·  ");
find("#model").title = find("#model").textContent;
if (about.notes.length) {
  find("#notes").append(...about.notes.map((note) => element("p", { textContent: note })));
  find("#notes").hidden = false;
}
startTry(about);
startReview(about, async (item) => {
  const address = `picture/large/${item.number}?v=${item.changed}`;
  location.hash = "#try";
  tryPicture(await (await fetch(address)).blob(), item.name);
});
startLearn(about);
addEventListener("hashchange", show);
show();
document.documentElement.dataset.ready = "true";
