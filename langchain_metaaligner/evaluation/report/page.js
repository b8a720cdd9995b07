// Without this, everything is shown.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const chosen = (name) => (form.elements[name] ? form.elements[name].value : "");
  const fits = (one, name) => {
    const own = one.dataset[name];
    if (own === undefined) return true;
    if (chosen(name) === "") return !("once" + name in one.dataset);
    return own.split(" ").includes(chosen(name));
  };
  const show = () => {
    for (const one of document.querySelectorAll("[data-policy], [data-objective]")) {
      one.hidden = !(fits(one, "policy") && fits(one, "objective"));
    }
    for (const list of document.querySelectorAll("[data-list]")) {
      const shown = list.querySelectorAll("article:not([hidden])").length;
      list.querySelector("[data-shown]").textContent = shown;
    }
  };
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const select of form.querySelectorAll("select")) {
    const value = asked.get(select.name);
    if ([...select.options].some((one) => one.value === value)) select.value = value;
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    const now = new URLSearchParams();
    for (const select of form.querySelectorAll("select")) {
      if (select.value) now.set(select.name, select.value);
    }
    location.replace("#" + now);
    show();
  });
  form.hidden = false;
  show();
})();
