// Which words two texts share: a longest common subsequence, with what both begin and end with
// taken off first.

const WORD = /\p{Script=Han}|[\p{L}\p{N}_]+|\s+|[^\s]/gu;
const MOST_CELLS = 16_000_000;

// Two lists of { text, isShared }, or null where the texts are too long to compare.
export function differences(left, right) {
  const a = left.match(WORD) ?? [];
  const b = right.match(WORD) ?? [];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  const most = Math.min(a.length, b.length) - head;
  while (tail < most && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const [middleA, middleB] = [a.slice(head, a.length - tail), b.slice(head, b.length - tail)];
  if ((middleA.length + 1) * (middleB.length + 1) > MOST_CELLS) return null;
  const [sharedA, sharedB] = shared(middleA, middleB);
  const isShared = (flags, length) => (at) => at < head || at >= length - tail || flags[at - head] === 1;
  return [runs(a, isShared(sharedA, a.length)), runs(b, isShared(sharedB, b.length))];
}

// For each word of `a` and of `b`: 1 where it belongs to the common subsequence.
function shared(a, b) {
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      longest[at] = a[i] === b[j]
        ? longest[at + width + 1] + 1
        : Math.max(longest[at + width], longest[at + 1]);
    }
  }
  const flags = [new Uint8Array(a.length), new Uint8Array(b.length)];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) {
      flags[0][i] = flags[1][j] = 1;
      i += 1;
      j += 1;
    } else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return flags;
}

function runs(words, isShared) {
  const found = [];
  words.forEach((text, at) => {
    const last = found.at(-1);
    if (last?.isShared === isShared(at)) last.text += text;
    else found.push({ text, isShared: isShared(at) });
  });
  return found;
}
