// What was corrected, and the commands that learn from it.
import { Refused, ask, element, find } from "./server.js";

let about = null;
const plural = (count, one) => `${count.toLocaleString("en")} ${one}${count === 1 ? "" : "s"}`;

export function startLearn(found) {
  about = found;
  for (const command of document.querySelectorAll(".command")) {
    find("button", command).onclick = (event) => copy(find("pre", command).textContent, event.currentTarget);
  }
}

export async function showLearn() {
  if (!about.album) {
    find("#learn-title").textContent = "Nothing to learn from yet";
    find("#learn-lead").textContent = "Name a folder, review its captions, and come back: python app.py --folder PICTURES";
    return;
  }
  let found;
  try {
    found = await ask("api/learn", { send: {} });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    find("#learn-lead").textContent = error.message;
    return;
  }
  const { counts, count } = found;
  find("#learn-title").textContent = count ? `${plural(count, "caption")} to learn from` : "Nothing to learn from yet";
  find("#learn-lead").textContent = count
    ? `Edited and accepted captions count, all alike; flagged pictures and drafts that nobody looked at are left out.${found.few ? " So few teach little: some fifty make a difference." : ""}`
    : "Edit or accept captions under Review. What is flagged is left out, and so are drafts that nobody looked at.";
  find("#figures").replaceChildren(...["edited", "accepted", "flagged", "unreviewed"].map((name) =>
    element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: counts[name].toLocaleString("en") }))));
  find("#how").hidden = count === 0;
  find("#alone").textContent = found.commands.alone;
  find("#with-old").hidden = !found.commands.mixed;
  find("#mixed").textContent = found.commands.mixed ?? "";
  find("#next").textContent = found.commands.next;
  find("#where").textContent = `The captions are in ${found.file}, made of ${found.journal}, which holds every change.`;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(find("pre", button.parentElement));
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
