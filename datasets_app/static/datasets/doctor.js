// A slider below the histogram of lengths: how many rows are cut at the length where it stands.

function mount(element) {
  const steps = JSON.parse(element.dataset.lengths);
  const columns = [...element.querySelectorAll(".histogram-column")];
  const label = Object.assign(document.createElement("label"), { className: "length-choice" });
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: steps.length - 1, step: 1 });
  const told = document.createElement("output");
  const show = () => {
    const chosen = Number(slider.value);
    told.textContent = steps[chosen].text;
    slider.setAttribute("aria-valuetext", steps[chosen].text);
    columns.forEach((column, place) => column.classList.toggle("is-cut", place > chosen));
  };
  slider.value = steps.length - 1;
  slider.addEventListener("input", show);
  slider.setAttribute("aria-label", element.dataset.lengthsLabel);
  label.append(slider, told);
  element.append(label);
  show();
}

function mountAll(root) {
  for (const element of root.querySelectorAll("[data-lengths]:not([data-mounted])")) {
    element.dataset.mounted = "";
    mount(element);
  }
}

mountAll(document);
document.addEventListener("htmx:load", (event) => mountAll(event.target));
