// What a finished answer looks like: an object is shown field by field and compared with what was expected.
import { make, text } from "./dom.js";

/** Return the object that a text is as JSON, or null. */
export function objectIn(words) {
  try {
    const value = JSON.parse(words);
    return value && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/** Return a value as text that is equal for equal values, whatever the order of keys. */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (!value || typeof value !== "object") return JSON.stringify(value) ?? "";
  return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
}

const plain = (value) => (typeof value === "string" ? value : JSON.stringify(value) ?? text("missing"));

function row(name, given, wanted, compared) {
  const value = make("dd", { textContent: plain(given) });
  const line = make("div", {}, make("dt", { textContent: name }), value);
  if (!compared) return line;
  const right = canonical(given) === canonical(wanted);
  value.prepend(make("span", { className: right ? "is-right" : "is-wrong", textContent: right ? "✓ " : "✗ " }));
  if (!right) value.append(make("small", { textContent: `${text("expected")}: ${plain(wanted)}` }));
  return line;
}

/** Show an answer in a bubble's text element; `expected` is the wanted text or null. Returns a verdict or "". */
export function showAnswer(element, words, expected) {
  const given = objectIn(words);
  const wanted = expected === null ? null : objectIn(expected);
  if (given) {
    const names = [...new Set([...Object.keys(given), ...Object.keys(wanted ?? {})])];
    const fields = names.map((name) => row(name, given[name], wanted?.[name], wanted !== null));
    element.replaceChildren(make("dl", { className: "answer-fields" }, ...fields));
  } else {
    element.textContent = words;
  }
  if (expected === null) return "";
  const same = given && wanted ? canonical(given) === canonical(wanted) : words.trim() === expected.trim();
  return text(same ? "matches" : "differs");
}
