// Sends a form with a file and shows how far it is. The server answers as to any form: a redirect, the form again
// with its errors, or JSON {"location": address}.
import { failure, text, toast } from "./dom.js";

const size = (bytes) => {
  const [unit, scale] = bytes >= 1e9 ? ["GB", 1e9] : bytes >= 1e6 ? ["MB", 1e6] : ["kB", 1e3];
  return `${(bytes / scale).toFixed(bytes / scale < 10 ? 1 : 0)} ${unit}`;
};

/** Put the main part of an answered page in place of ours, as if the browser had gone there. */
function show(request) {
  const page = new DOMParser().parseFromString(request.responseText, "text/html");
  const [ours, theirs] = [document.querySelector("main"), page.querySelector("main")];
  if (!ours || !theirs) return location.assign(request.responseURL);
  if (request.responseURL !== location.href) history.pushState(null, "", request.responseURL);
  document.title = page.title;
  ours.replaceWith(document.adoptNode(theirs));
  theirs.dispatchEvent(new CustomEvent("portal:replaced", { bubbles: true }));
  window.htmx?.process(theirs);
  theirs.focus();
}

function answered(request) {
  const type = request.getResponseHeader("Content-Type") ?? "";
  if (type.includes("application/json")) {
    const answer = JSON.parse(request.responseText);
    if (answer.location) return location.assign(answer.location);
    toast(answer.error?.message ?? failure(request.status), "danger");
    return;
  }
  if (type.includes("text/html") && request.status !== 413) return show(request);
  toast(failure(request.status), "danger");
}

function dropZone(input) {
  const zone = input.closest("[data-drop]");
  const title = zone.querySelector("[data-file-name]");
  const empty = title.textContent;
  const name = () => {
    const file = input.files[0];
    title.textContent = file ? `${file.name} · ${size(file.size)}` : empty;
  };
  zone.classList.add("is-live");
  input.addEventListener("change", name);
  zone.addEventListener("dragover", (event) => (event.preventDefault(), zone.classList.add("is-over")));
  zone.addEventListener("dragleave", () => zone.classList.remove("is-over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("is-over");
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    name();
  });
  name();
}

function send(form, parts) {
  const box = form.querySelector("[data-upload-progress]");
  const bar = box.querySelector("progress");
  const [state, detail] = [box.querySelector("[data-upload-state]"), box.querySelector("[data-upload-detail]")];
  const cancel = box.querySelector("[data-upload-cancel]");
  const buttons = form.querySelectorAll("button[type=submit]");
  const request = new XMLHttpRequest();
  const idle = () => {
    box.hidden = true;
    buttons.forEach((button) => (button.disabled = false));
  };
  request.upload.onprogress = ({ loaded, total }) => {
    bar.value = total ? loaded / total : 0;
    detail.textContent = `${size(loaded)} / ${size(total)}`;
    if (loaded !== total) return;
    state.textContent = text("checking");
    bar.removeAttribute("value");
  };
  request.onload = () => (idle(), answered(request));
  request.onerror = () => (idle(), toast(text("uploadFailed"), "danger"));
  request.onabort = () => (idle(), toast(text("uploadCancelled")));
  cancel.onclick = () => request.abort();
  request.open("POST", form.action);
  request.setRequestHeader("Accept", "text/html, application/json");
  // The form is read before its buttons are disabled: a disabled control is not sent.
  const body = new FormData(form);
  for (const { input, kept } of parts) if (kept.value) body.delete(input.name);
  buttons.forEach((button) => (button.disabled = true));
  state.textContent = text("uploading");
  bar.value = 0;
  box.hidden = false;
  request.send(body);
}

/** Give one form its drop zones and its progress, which its first zone shows; with data-resumable files go in parts. */
export async function mount(form) {
  const inputs = [...form.querySelectorAll("[data-drop] input[type=file]")];
  inputs.forEach(dropZone);
  let parts = [];
  const ready = form.dataset.resumable
    ? import("./resumable.js").then(({ attach }) => (parts = inputs.map((input) => attach(form, input, size))))
    : Promise.resolve();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const buttons = form.querySelectorAll("button[type=submit]");
    buttons.forEach((button) => (button.disabled = true));
    await ready;
    const all = await Promise.all(parts.map((part) => part.settled()));
    buttons.forEach((button) => (button.disabled = false));
    if (all.every(Boolean)) send(form, parts);
  });
}
