// The endpoint: every call of the page goes through here, to the host that served it.

const KEY = "crucible.key";

export class EndpointError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Kept for this tab alone, and gone when it is closed.
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export async function describeEndpoint() {
  return (await call("v1/endpoint")).json();
}

export async function findPairs(query, signal) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null);
  return (await call(`v1/preferences?${new URLSearchParams(given)}`, { signal })).json();
}

// Yields { event, data } as the sources answer; ends early when the signal aborts.
export async function* fanOut(request, signal) {
  const response = await call("v1/fanout", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  yield* serverSentEvents(response.body);
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new EndpointError(0, "The endpoint does not answer. Is it still up?");
  }
  if (!response.ok) throw await asError(response);
  return response;
}

async function asError(response) {
  let message = `The endpoint answered ${response.status}.`;
  try {
    const body = await response.json();
    message = body.error?.message ?? message;
  } catch {
    // No JSON: the status says what is known.
  }
  const wait = response.headers.get("Retry-After");
  return new EndpointError(response.status, wait ? `${message} Try again in ${wait} s.` : message);
}

async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (waiting + value).replaceAll("\r\n", "\n").split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event) yield event;
    }
  }
}

function parseEvent(block) {
  const lines = block.split("\n").map((line) => /^(event|data): ?(.*)$/s.exec(line));
  const field = (name) => lines.filter((found) => found?.[1] === name).map((found) => found[2]);
  const data = field("data").join("\n");
  return data ? { event: field("event")[0] ?? "message", data: JSON.parse(data) } : null;
}
