// What is asked of the program, and what is shown when it does not answer.

export const find = (selector, within = document) => within.querySelector(selector);
export const percent = (share) => `${Math.round(100 * share)} %`;

// Undo takes back what this window did, also after it was loaded anew.
export const own = sessionStorage.getItem("window") ?? crypto.getRandomValues(new Uint32Array(2)).join("-");
sessionStorage.setItem("window", own);

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error ?? `The program answered ${status}.`);
    Object.assign(this, { status, body });
  }
}

export async function ask(path, { body, send, signal } = {}) {
  const init = { signal, headers: {} };
  if (send !== undefined || body !== undefined) init.method = "POST";
  if (send !== undefined) {
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(send);
    init.keepalive = true;  // what is said while the page is closed arrives
  } else if (body !== undefined) {
    init.body = body;
  }
  let answer;
  try {
    answer = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    trouble("The program does not answer. Is it still running? What you typed stays here.");
    throw new Refused(0, { error: "The program does not answer." });
  }
  trouble("");
  const text = await answer.text();
  let content = null;
  try { content = JSON.parse(text); } catch { content = { error: text }; }
  if (!answer.ok) throw new Refused(answer.status, content);
  return content;
}

export function trouble(message) {
  const place = find("#trouble");
  if (place.textContent !== message) place.textContent = message;
  place.hidden = !message;
}

export function element(kind, properties = {}, ...children) {
  const made = Object.assign(document.createElement(kind), properties);
  made.append(...children);
  return made;
}
