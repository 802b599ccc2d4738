// The identity of a prompt, equal to fusion.identity.prompt_id: SHA-256 of canonical JSON. It is
// written out here because browsers have crypto.subtle over TLS and on loopback only.

const ID_LENGTH = 32;
const primes = [];
for (let n = 2; primes.length < 64; n += 1) {
  if (primes.every((prime) => n % prime)) primes.push(n);
}
const fraction = (root) => ((root - Math.floor(root)) * 2 ** 32) | 0;
const START = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const ROUND = primes.map((prime) => fraction(Math.cbrt(prime)));

export function promptId(messages) {
  const canonical = messages.map(({ role, content }) => ({ content, role }));
  return sha256(JSON.stringify(canonical)).slice(0, ID_LENGTH);
}

// Which text is chosen over which; the page knows no ids of responses.
export function pairId(prompt, chosen, rejected) {
  return sha256(JSON.stringify([prompt, chosen, rejected])).slice(0, ID_LENGTH);
}

export function sha256(text) {
  const words = padded(new TextEncoder().encode(text));
  let state = START;
  for (let at = 0; at < words.length; at += 16) state = compress(state, words.slice(at, at + 16));
  return state.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

// FIPS 180-4, section 5.1.1: a one bit, zeros, and the length in bits, in blocks of 16 words.
function padded(bytes) {
  const words = new Array(((bytes.length + 72) >> 6) * 16).fill(0);
  bytes.forEach((byte, at) => { words[at >> 2] |= byte << (24 - (at % 4) * 8); });
  words[bytes.length >> 2] |= 0x80 << (24 - (bytes.length % 4) * 8);
  words[words.length - 2] = Math.floor(bytes.length / 2 ** 29);
  words[words.length - 1] = bytes.length << 3;
  return words;
}

const turn = (word, by) => (word >>> by) | (word << (32 - by));

// Section 6.2.2.
function compress(state, block) {
  const w = block;
  for (let t = 16; t < 64; t += 1) {
    const early = turn(w[t - 15], 7) ^ turn(w[t - 15], 18) ^ (w[t - 15] >>> 3);
    const late = turn(w[t - 2], 17) ^ turn(w[t - 2], 19) ^ (w[t - 2] >>> 10);
    w[t] = (w[t - 16] + early + w[t - 7] + late) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t += 1) {
    const mixed = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
    const one = (h + mixed + ((e & f) ^ (~e & g)) + ROUND[t] + w[t]) | 0;
    const two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
  }
  return [a, b, c, d, e, f, g, h].map((word, at) => (word + state[at]) | 0);
}
