// What has been typed and is not stored yet, kept where a reload of the tab finds it again.
//
// An offset has a random beginning made anew at every load of the page, and a counter. So it needs no socket id, which
// there is none of while offline, and no counter that a reload could restart or a duplicated tab could share. A message
// keeps its offset as long as it waits, over any number of loads; a tab duplicated while messages wait sends them too,
// under the same offsets, and the server stores them once.

const KEY = "reliable-emit/waiting/";

function randomPrefix() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function storageOfTheTab() {
  try {
    return window.sessionStorage;
  } catch {
    return null; // the user has told the browser to keep nothing
  }
}

// Nothing, if it is not what this page writes: another script of this origin may use such a key.
function readMessage(offset, entry) {
  let found;
  try {
    found = JSON.parse(entry);
  } catch {
    return null;
  }
  if (typeof found?.text !== "string") return null;
  const message = { offset, order: Number.isSafeInteger(found.order) ? found.order : 0, text: found.text };
  if (typeof found.refused === "string") message.refused = found.refused;
  return message;
}

export class Waiting {
  #prefix = randomPrefix();
  #storage = storageOfTheTab();
  #messages = new Map(); // by offset, in the order of sending
  #made = 0;
  #order = 0;

  constructor() {
    const found = [];
    for (let index = 0; index < (this.#storage?.length ?? 0); index += 1) {
      const key = this.#storage.key(index);
      if (key.startsWith(KEY)) {
        const message = readMessage(key.slice(KEY.length), this.#storage.getItem(key));
        if (message !== null) found.push(message);
      }
    }
    found.sort((one, other) => one.order - other.order);
    for (const message of found) {
      this.#messages.set(message.offset, message);
      this.#order = message.order + 1;
    }
  }

  // Whether a reload of the tab keeps them.
  get lasting() {
    return this.#storage !== null;
  }

  // How many have been neither stored nor refused.
  get count() {
    let count = 0;
    for (const message of this.#messages.values()) count += message.refused === undefined ? 1 : 0;
    return count;
  }

  // The one to be sent next.
  next() {
    for (const message of this.#messages.values()) if (message.refused === undefined) return message;
    return undefined;
  }

  // Whether it is neither stored nor refused.
  has(message) {
    return this.#messages.has(message.offset) && message.refused === undefined;
  }

  [Symbol.iterator]() {
    return this.#messages.values();
  }

  // Throws, and accepts nothing, if the tab's storage is full.
  add(text) {
    const message = { offset: `${this.#prefix}-${this.#made}`, order: this.#order, text };
    this.#keep(message);
    this.#made += 1;
    this.#order += 1;
    this.#messages.set(message.offset, message);
    return message;
  }

  // The server will never take it: it is not sent again, and stays until the user has seen it.
  refuse(message, reason) {
    message.refused = reason;
    try {
      this.#keep(message);
    } catch {
      // Full: after a reload it is sent once more, and refused once more.
    }
  }

  remove(message) {
    this.#messages.delete(message.offset);
    this.#storage?.removeItem(KEY + message.offset);
  }

  #keep({ offset, ...rest }) {
    this.#storage?.setItem(KEY + offset, JSON.stringify(rest));
  }
}
