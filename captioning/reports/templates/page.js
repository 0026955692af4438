"use strict";

// The button goes round: as the system has it, light, dark.
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const names = { "": "◐ Auto", light: "☀ Light", dark: "☾ Dark" };
  const order = ["", "light", "dark"];
  const show = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    button.textContent = names[theme];
  };
  let theme = "";
  show(theme);
  button.addEventListener("click", () => {
    theme = order[(order.indexOf(theme) + 1) % order.length];
    show(theme);
  });
}
