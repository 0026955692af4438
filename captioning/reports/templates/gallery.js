// Filter and sort the cards; lay over a picture what a word looked at.
{
  const toolbar = document.getElementById("toolbar");
  const cards = [...document.querySelectorAll(".card")].map((element) => ({
    element,
    text: [...element.querySelectorAll(".caption, .references")]
      .map((part) => part.textContent.replace(/\s+/g, " ").toLowerCase())
      .join(" "),
    groups: element.dataset.groups.split(" "),
    correct: element.dataset.correct,
    keys: JSON.parse(element.dataset.keys),
  }));

  if (toolbar) {
    const find = (id) => document.getElementById(id);
    const [search, correctness, sort, direction] = ["search", "correctness", "sort", "direction"].map(find);
    const choices = [...toolbar.querySelectorAll("[data-group]")];
    let group = "";
    let sign = -1;

    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const card of cards) {
        const matches =
          words.every((word) => card.text.includes(word)) &&
          (!group || card.groups.includes(group)) &&
          (!correctness?.value || card.correct === correctness.value);
        card.element.hidden = !matches;
        shown += matches;
      }
      find("count").textContent = shown === cards.length ? `${shown} pictures` : `${shown} of ${cards.length} pictures`;
      find("nothing").hidden = shown > 0;
    };

    const order = () => {
      // Cards without a number come last, whichever way the others go.
      const key = (card) => card.keys[sort.value] ?? null;
      const compare = (a, b) => (key(a) === null) - (key(b) === null) || sign * (key(a) - key(b));
      find("cards").append(...[...cards].sort(compare).map((card) => card.element));
      direction.textContent = sign < 0 ? "↓" : "↑";
    };

    toolbar.addEventListener("submit", (event) => event.preventDefault());
    search.addEventListener("input", filter);
    correctness?.addEventListener("change", filter);
    sort.addEventListener("change", order);
    direction.addEventListener("click", () => {
      sign = -sign;
      order();
    });
    for (const choice of choices) {
      choice.addEventListener("click", () => {
        group = choice.dataset.group;
        for (const other of choices) other.setAttribute("aria-pressed", String(other === choice));
        filter();
      });
    }
    order();
  }

  // Behind a picture that does not fill its frame stands the same picture, blurred.
  for (const picture of document.querySelectorAll(".frame img")) {
    picture.parentElement.style.setProperty("--picture", `url("${picture.src}")`);
  }

  document.addEventListener("click", (event) => {
    const word = event.target.closest(".word");
    const frame = word?.closest(".card").querySelector(".frame");
    if (!frame) return;
    const canvas = frame.querySelector("canvas");
    const isOn = word.getAttribute("aria-pressed") === "true";
    for (const other of word.parentElement.querySelectorAll(".word")) other.setAttribute("aria-pressed", "false");
    word.setAttribute("aria-pressed", String(!isOn));
    canvas.hidden = isOn;
    frame.classList.toggle("heated", !isOn);
    if (!isOn) drawHeat(canvas, word.dataset.heat);
  });
}
