"use strict";
(() => {
// On paper every formula is wanted.
let opened = [];
addEventListener("beforeprint", () => { opened = [...document.querySelectorAll("details:not([open])")]; opened.forEach(d => { d.open = true }) });
addEventListener("afterprint", () => opened.forEach(d => { d.open = false }));
})();
