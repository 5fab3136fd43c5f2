// A conversation with one model, or with two side by side. See components/_chat.html for the attributes.
import { showAnswer } from "./answer.js";
import { csrfToken, failure, text, toast } from "./dom.js";
import { eventsOf } from "./sse.js";

class Refused extends Error {}

class Chat {
  constructor(section) {
    this.section = section;
    this.form = section.querySelector("[data-chat-form]");
    this.log = section.querySelector("[data-chat-log]");
    this.start = section.querySelector("[data-chat-start]");
    this.input = this.form.elements.prompt;
    this.stopButton = section.querySelector("[data-chat-stop]");
    this.sendButton = section.querySelector("[data-chat-send]");
    this.turns = []; // {prompt, answers: Map(model → text)}
    this.sample = null; // the row that the chip put into the message
    section.querySelector("[data-chat-clear]").addEventListener("click", () => this.clear());
    if (this.input) this.listen();
  }

  listen() {
    this.form.addEventListener("submit", (event) => (event.preventDefault(), this.send()));
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.running) this.form.requestSubmit();
    });
    this.stopButton.addEventListener("click", () => this.running?.abort());
    const chip = this.section.querySelector("[data-chat-sample]");
    if (!chip) return;
    chip.hidden = false;
    chip.addEventListener("click", () => this.takeSample(chip));
  }

  clear() {
    this.running?.abort();
    this.turns = [];
    this.start.hidden = false;
    this.log.replaceChildren(this.start);
    this.input?.focus();
  }

  async takeSample(chip) {
    chip.disabled = true;
    try {
      // Each model has its own dataset, so the row has to come from the one that is chosen now.
      const address = new URL(this.section.dataset.sample, location.href);
      address.searchParams.set("model", this.form.elements.model.value);
      const response = await fetch(address, { headers: { Accept: "application/json" } });
      if (!response.ok) throw new Refused(await reason(response));
      this.sample = await response.json();
      this.input.value = this.sample.prompt;
      this.input.focus();
    } catch (error) {
      toast(error instanceof Refused ? error.message : text("offline"), "danger");
    }
    chip.disabled = false;
  }

  models() {
    const { model, compare } = this.form.elements;
    return [...new Set([model.value, compare?.value].filter(Boolean))];
  }

  nameOf(model) {
    return [...this.form.elements.model.options].find((option) => option.value === model)?.textContent ?? model;
  }

  bubble(role, words = "", name = "") {
    const bubble = this.section.querySelector(`template[data-bubble=${role}]`).content.firstElementChild.cloneNode(true);
    bubble.querySelector("[data-text]").textContent = words;
    if (name) bubble.querySelector("[data-name]").textContent = name;
    return bubble;
  }

  async send() {
    const prompt = this.input.value.trim();
    if (!prompt || this.running) return;
    const sample = this.sample?.prompt.trim() === prompt ? this.sample : null;
    const turn = { prompt, answers: new Map() };
    const answers = Object.assign(document.createElement("div"), { className: "chat-answers" });
    this.start.remove();
    this.log.append(this.bubble("user", prompt), answers);
    const asked = this.models().map((model) => {
      const bubble = this.bubble("assistant", "", this.nameOf(model));
      answers.append(bubble);
      return this.ask(model, turn, bubble, sample);
    });
    if (sample) {
      answers.append(this.bubble("expected"));
      showAnswer(answers.lastElementChild.querySelector("[data-text]"), sample.expected, null);
    }
    this.input.value = "";
    this.sample = null;
    await this.whileBusy(asked);
    if (turn.answers.size) this.turns.push(turn);
  }

  async whileBusy(asked) {
    this.busy(true);
    this.toEnd(true);
    await Promise.all(asked);
    this.busy(false);
    this.toEnd();
  }

  busy(on) {
    this.stopButton.hidden = !on;
    this.sendButton.hidden = on;
    // A screen reader should read the finished answer, not every token.
    this.log.setAttribute("aria-busy", String(on));
    if (!on) {
      this.running = null;
      this.input.focus();
    }
  }

  toEnd(always = false) {
    const near = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 120;
    if (always || near) this.log.scrollTop = this.log.scrollHeight;
  }

  body(model, turn) {
    const fields = this.form.elements;
    const system = fields.system?.value.trim() ?? "";
    const past = this.turns.flatMap(({ prompt, answers }) => [
      { role: "user", content: prompt },
      { role: "assistant", content: answers.get(model) ?? [...answers.values()][0] },
    ]);
    return {
      model,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...past, { role: "user", content: turn.prompt }],
      stream: true,
      stream_options: { include_usage: true },
      temperature: Number(fields.temperature?.value || 0),
      max_tokens: Number(fields.max_tokens?.value || 256),
    };
  }

  async ask(model, turn, bubble, sample) {
    this.running ??= new AbortController();
    const { signal } = this.running;
    const answer = { words: "", usage: null, finish: "", begun: performance.now(), first: 0 };
    bubble.classList.add("is-writing");
    try {
      const body = JSON.stringify(this.body(model, turn));
      const headers = { "Content-Type": "application/json", Accept: "text/event-stream", "X-CSRFToken": csrfToken() };
      const response = await fetch(this.section.dataset.chat, { method: "POST", headers, body, signal });
      if (!response.ok) throw new Refused(await reason(response));
      await this.read(response, answer, bubble.querySelector("[data-text]"));
    } catch (error) {
      if (error.name === "AbortError") answer.finish = "stopped";
      else fail(bubble, error instanceof Refused ? error.message : text("offline"));
    }
    bubble.classList.remove("is-writing");
    if (bubble.classList.contains("has-failed")) return;
    turn.answers.set(model, answer.words);
    const verdict = answer.finish === "stopped" ? "" : showAnswer(bubble.querySelector("[data-text]"), answer.words, sample?.expected ?? null);
    bubble.querySelector("[data-meta]").textContent = [verdict, ...figures(answer)].filter(Boolean).join(" · ");
  }

  async read(response, answer, element) {
    for await (const chunk of eventsOf(response)) {
      if (chunk.error) throw new Refused(chunk.error.message);
      const piece = chunk.choices?.[0]?.delta?.content;
      if (piece) {
        answer.first ||= performance.now();
        answer.words += piece;
        element.textContent = answer.words;
        this.toEnd();
      }
      answer.finish = chunk.choices?.[0]?.finish_reason ?? answer.finish;
      answer.usage = chunk.usage ?? answer.usage;
    }
    answer.ended = performance.now();
  }
}

/** Return why a response was refused, in the words of the OpenAI error object if there is one. */
async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return failure(response.status);
  }
}

function fail(bubble, message) {
  bubble.classList.add("has-failed");
  bubble.querySelector("[data-text]").textContent = message;
}

function figures({ usage, finish, begun, first, ended }) {
  const seconds = (span) => `${(span / 1000).toFixed(span < 9950 ? 2 : 0)} s`;
  const tokens = usage?.completion_tokens;
  const speed = tokens > 1 && ended > first ? (tokens - 1) / ((ended - first) / 1000) : 0;
  return [
    ended && seconds(ended - begun),
    first && `${text("firstToken")} ${seconds(first - begun)}`,
    tokens && `${tokens} ${text("tokens")}`,
    speed && `${speed.toFixed(speed < 10 ? 1 : 0)} ${text("tokensPerSecond")}`,
    finish === "length" && text("cut"),
    finish === "stopped" && text("stopped"),
  ];
}

/** Bring one chat to life. */
export function mount(section) {
  new Chat(section);
}
