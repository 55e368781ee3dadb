"use strict";
(() => {
const root = document.documentElement, themes = ["as the system", "light", "dark"];
const themeButton = document.querySelector("#theme");
const nameTheme = () => { themeButton.textContent = "Theme: " + (root.dataset.theme || themes[0]) };
themeButton.addEventListener("click", () => {
  const next = themes[(themes.indexOf(root.dataset.theme || themes[0]) + 1) % 3];
  if (next === themes[0]) delete root.dataset.theme; else root.dataset.theme = next;
  try { localStorage.setItem("jadeberta-theme", root.dataset.theme || "") } catch (e) { /* a viewer without storage */ }
  nameTheme();
});
nameTheme();
document.querySelector("#json").addEventListener("click", () => {
  const content = document.querySelector("#figures").textContent, link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type: "application/json"}));
  link.download = "plan.json"; link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
// On paper every formula is wanted.
let opened = [];
addEventListener("beforeprint", () => { opened = [...document.querySelectorAll("details:not([open])")]; opened.forEach(d => { d.open = true }) });
addEventListener("afterprint", () => opened.forEach(d => { d.open = false }));
})();
