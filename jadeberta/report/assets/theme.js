try { const t = localStorage.getItem("jadeberta-theme"); if (t === "light" || t === "dark") document.documentElement.dataset.theme = t } catch (e) { /* a viewer without storage */ }
