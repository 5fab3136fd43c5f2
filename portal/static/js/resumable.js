// Sends a chosen file in parts while the rest of its form is filled in. A part that is lost is sent again; after a
// reload the same file goes on where it stopped, since its address is kept in the browser's storage.
import tus from "../vendor/tus/tus.min.js";
import { csrfToken, failure, text, toast } from "./dom.js";
import { percent } from "./series.js";

const PART_BYTES = 8 * 1024 * 1024;
// Larger files would have to be held in memory whole to be hashed here; the server hashes them all the same.
const HASHED_BYTES = 64 * 1024 * 1024;
const RETRY_MS = [0, 1000, 2000, 5000, 10000, 15000, 30000, 30000, 30000, 30000, 30000, 30000];

/** Return the error object of a refused request, or {} if there was no answer. */
function refusal(error) {
  try {
    return JSON.parse(error.originalResponse?.getBody() ?? "").error ?? {};
  } catch {
    return {};
  }
}

const statusOf = (error) => error.originalResponse?.getStatus() ?? 0;

/** Whether another try may help: no answer, a busy server or an upload that is still being written. */
function isPassing(error) {
  const status = statusOf(error);
  if (refusal(error).code === "insufficient_quota") return false;
  return !status || status >= 500 || [409, 423, 429].includes(status);
}

async function sha256(file) {
  if (!crypto.subtle || file.size > HASHED_BYTES) return "";
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Give one drop zone its upload in parts. Returns {settled(): Promise<boolean>, input}. */
export function attach(form, input, size) {
  const field = input.closest(".form-field");
  const kept = field.querySelector("input[type=hidden]");
  const box = field.querySelector("[data-upload-progress]");
  const bar = box.querySelector("progress");
  const [state, detail] = [box.querySelector("[data-upload-state]"), box.querySelector("[data-upload-detail]")];
  const [pause, cancel] = [box.querySelector("[data-upload-pause]"), box.querySelector("[data-upload-cancel]")];
  let upload = null;
  let running = false;
  let finish = () => {};
  let settled = Promise.resolve(true);

  const say = (name, tone = "") => {
    state.textContent = text(name);
    box.dataset.state = tone || name;
  };
  const buttons = () => {
    pause.hidden = cancel.hidden = !upload;
    pause.textContent = text(running ? "pause" : "resume");
  };
  const go = () => {
    running = true;
    say("uploading");
    buttons();
    upload.start();
  };
  const rest = (name) => {
    running = false;
    say(name);
    buttons();
  };
  const end = (isThere) => {
    upload = null;
    running = false;
    buttons();
    finish(isThere);
  };

  async function begin(file) {
    settled = new Promise((resolve) => (finish = resolve));
    kept.value = "";
    box.hidden = false;
    bar.value = 0;
    detail.textContent = "";
    say("uploading");
    const hash = await sha256(file);
    let answered = "";
    const mine = new tus.Upload(file, {
      endpoint: form.dataset.resumable,
      chunkSize: PART_BYTES,
      retryDelays: RETRY_MS,
      removeFingerprintOnSuccess: true,
      metadata: { filename: file.name, ...(hash && { sha256: hash }) },
      headers: { "X-CSRFToken": csrfToken() },
      onShouldRetry: (error) => {
        if (isPassing(error)) say("uploadWaiting");
        return isPassing(error);
      },
      onAfterResponse: (_request, response) => (answered = response.getHeader("Upload-Sha256") || answered),
      onProgress: (sent, total) => {
        if (upload !== mine) return;
        if (running) say("uploading");
        bar.value = total ? sent / total : 0;
        detail.textContent = `${size(sent)} / ${size(total)} · ${percent(total ? Math.floor((sent / total) * 100) / 100 : 0)}`;
      },
      onError: (error) => {
        if (upload !== mine) return;
        if (isPassing(error)) return rest("uploadFailed");
        const message = refusal(error).message ?? failure(statusOf(error));
        box.hidden = true;
        input.value = "";
        input.dispatchEvent(new Event("change"));
        toast(message, "danger");
        end(false);
      },
      onSuccess: () => {
        if (upload !== mine) return;
        kept.value = mine.url.replace(/\/$/, "").split("/").pop();
        input.required = false;
        bar.value = 1;
        say("uploadDone");
        detail.textContent = `SHA-256 ${answered.slice(0, 16)}…`;
        detail.title = answered;
        end(true);
      },
    });
    upload = mine;
    const [previous] = await mine.findPreviousUploads();
    if (previous) mine.resumeFromPreviousUpload(previous);
    if (upload === mine) go();
  }

  pause.addEventListener("click", () => {
    if (!running) return go();
    upload.abort();
    rest("uploadPaused");
  });
  cancel.addEventListener("click", () => {
    upload?.abort(true).catch(() => {});
    box.hidden = true;
    input.value = "";
    end(false);
    input.dispatchEvent(new Event("change"));
  });
  window.addEventListener("online", () => upload && !running && box.dataset.state === "uploadFailed" && go());
  input.addEventListener("change", () => {
    upload?.abort();
    if (upload) end(false);
    if (input.files[0]) begin(input.files[0]);
    else if (!kept.value) box.hidden = true;
  });
  if (input.files[0]) begin(input.files[0]); // a reload keeps the choice in some browsers
  return { input, kept, settled: () => settled };
}
