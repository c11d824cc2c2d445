"use strict";
// light, dark, or what the system prefers until the button is used
document.getElementById("theme").addEventListener("click", (event) => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  event.currentTarget.setAttribute("aria-pressed", String(!dark));
});
