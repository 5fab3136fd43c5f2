// Reading "text/event-stream" from fetch, which EventSource cannot do for a POST.

/** Yield the data of each server-sent event until the stream ends or says [DONE]. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      const message = lines.map((line) => line.slice(5).trimStart()).join("\n");
      if (message === "[DONE]") return;
      if (message) yield JSON.parse(message);
    }
  }
}
