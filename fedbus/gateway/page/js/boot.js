// Before the first paint: the theme that was chosen, so that nothing flashes. Classic script, because modules come later.
(() => {
  try {
    const theme = localStorage.getItem("fedbus.theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch { /* storage is off: the system's theme it is */ }
})();
