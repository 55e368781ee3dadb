"use strict";
// The buttons at the head of a page, as html_page.header writes them.
(() => {
const root = document.documentElement, themes = ["as the system", "light", "dark"];
const themeButton = document.querySelector("#theme"), jsonButton = document.querySelector("#json");
const nameTheme = () => { themeButton.textContent = "Theme: " + (root.dataset.theme || themes[0]) };
themeButton.addEventListener("click", () => {
  const next = themes[(themes.indexOf(root.dataset.theme || themes[0]) + 1) % 3];
  if (next === themes[0]) delete root.dataset.theme; else root.dataset.theme = next;
  try { localStorage.setItem("jadeberta-theme", root.dataset.theme || "") } catch (e) { /* a viewer without storage */ }
  nameTheme();
});
nameTheme();
jsonButton.addEventListener("click", () => {
  const content = document.querySelector("#figures").textContent, link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type: "application/json"}));
  link.download = jsonButton.dataset.name; link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
})();
