// The chat page: a Socket.IO client that loses nothing, shows each row once, and says how it stands.

import { Rows, textOf } from "./rows.js";
import { Waiting } from "./waiting.js";

const EVENT = "chat message";
const REJECTED = "reliable-emit:rejected"; // with this an acknowledgement refuses a message for good
const PAUSE = 500; // milliseconds before connecting again where the client library does not by itself, and at most
const LONGEST_PAUSE = 10_000;
const ATTEMPT = 10_000; // milliseconds to wait for an acknowledgement on a connection that stands
// The server refuses a text that is too long; but a packet that is far too long ends the connection, at every attempt,
// and nothing behind it would ever be sent.
const LONGEST_TEXT = 65_536;

const byId = (id) => document.getElementById(id);

function refusal(reply) {
  const names = typeof reply === "object" && reply !== null ? Object.keys(reply) : [];
  const reason = names.length === 1 ? reply[names[0]] : undefined;
  return names[0] === REJECTED && typeof reason === "string" ? reason : undefined;
}

// Messages that wait, below the rows. An item stays until its row is there.
class Unsent {
  #list = byId("waiting");
  #items = new Map(); // by offset
  #stored = new Map(); // by the id of a row that has not come yet

  constructor(dismissed, changed) {
    this.dismissed = dismissed;
    this.changed = changed;
  }

  show(message) {
    const item = document.createElement("li");
    const note = document.createElement("span");
    note.className = "note";
    note.textContent = "waiting";
    item.append(textOf(message.text), note);
    this.#items.set(message.offset, item);
    this.#list.append(item);
    if (message.refused !== undefined) this.refused(message);
    this.changed();
  }

  refused(message) {
    const item = this.#items.get(message.offset);
    item.classList.add("refused");
    item.querySelector(".note").textContent = `Refused by the server: ${message.refused}`;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Dismiss";
    button.addEventListener("click", () => {
      this.#remove(message.offset);
      this.dismissed(message);
    });
    item.append(button);
    this.changed();
  }

  // It is stored as that row; the row may come before or after the acknowledgement.
  settled(message, row, lastRow) {
    if (row > lastRow) {
      this.#stored.set(row, message.offset);
      this.#items.get(message.offset).querySelector(".note").textContent = "stored";
    } else {
      this.#remove(message.offset);
    }
  }

  arrived(row) {
    const offset = this.#stored.get(row);
    if (offset !== undefined) {
      this.#stored.delete(row);
      this.#remove(offset);
    }
  }

  #remove(offset) {
    this.#items.get(offset)?.remove();
    this.#items.delete(offset);
  }
}

function chat(io) {
  const rows = new Rows();
  const waiting = new Waiting();
  const socket = io({
    autoConnect: false,
    auth: { serverOffset: 0 },
    transports: ["websocket", "polling"],
    tryAllTransports: true,
    reconnectionDelay: PAUSE,
    reconnectionDelayMax: 5000,
    timeout: 5000, // an attempt whose server dies in the middle of it waits for all of this; by default 20 seconds
  });
  const unsent = new Unsent((message) => waiting.remove(message), () => rows.changed());

  let wanted = true; // whether the user wants to be connected
  let refusedBecause = "";
  let lastRow = 0;
  let pause = PAUSE;
  let again, calm;
  let inFlight, attempt;

  function state() {
    if (socket.connected) return ["connected", "Connected"];
    if (!wanted) return ["disconnected", "Disconnected"];
    return ["offline", refusedBecause ? `The server refuses: ${refusedBecause}` : "Offline, trying again"];
  }

  function show() {
    const [name, words] = state();
    const count = waiting.count;
    const kept = waiting.lasting ? "kept if this tab is reloaded, lost if it is closed" : "lost if this tab is reloaded";
    byId("status").dataset.state = name;
    byId("state").textContent = words;
    byId("count").textContent = count === 0 ? "" : `${count} waiting`;
    byId("count").title = count === 0 ? "" : kept;
    byId("toggle").textContent = wanted ? "Disconnect" : "Connect";
    document.title = count === 0 ? "Chat" : `(${count}) Chat`;
  }

  function complain(problem) {
    byId("problem").textContent = problem;
    byId("problem").hidden = problem === "";
  }

  // One message at a time, until it is acknowledged. The client library has a queue of its own (`retries`), but its build
  // for browsers loses messages: a packet acknowledged twice, as after the computer has slept, takes the next one off too.
  function sendNext() {
    if (inFlight !== undefined || !socket.connected) return;
    const message = waiting.next();
    if (message === undefined) return;
    inFlight = message;
    attempt = setTimeout(() => {
      attemptEnds();
      sendNext();
    }, ATTEMPT);
    // Whichever attempt it is that is acknowledged, and however late.
    socket.emit(EVENT, message.text, message.offset, (reply) => settled(message, reply));
  }

  function attemptEnds() {
    clearTimeout(attempt);
    inFlight = undefined;
  }

  function settled(message, reply) {
    if (!waiting.has(message)) return;
    const reason = refusal(reply);
    if (reason === undefined) {
      waiting.remove(message);
      unsent.settled(message, reply, lastRow);
    } else {
      waiting.refuse(message, reason);
      unsent.refused(message);
    }
    if (inFlight === message) attemptEnds();
    sendNext();
    show();
  }

  // After these two ends, unlike others, the client library stays away: the server disconnected us, or refused us.
  function comeBack() {
    clearTimeout(again);
    again = setTimeout(() => wanted && socket.connect(), pause * (0.5 + Math.random()));
    pause = Math.min(2 * pause, LONGEST_PAUSE);
  }

  socket.on("connect", () => {
    refusedBecause = "";
    calm = setTimeout(() => (pause = PAUSE), LONGEST_PAUSE);
    sendNext();
    show();
  });
  socket.on("disconnect", () => {
    clearTimeout(calm);
    attemptEnds();
    if (wanted && !socket.active) comeBack();
    show();
  });
  socket.on("connect_error", (error) => {
    refusedBecause = socket.active ? "" : error.message;
    if (wanted && !socket.active) comeBack();
    show();
  });
  socket.on(EVENT, (text, row) => {
    // A row that was on its way when the connection ended comes again with the replay of the next one.
    if (typeof text !== "string" || !Number.isSafeInteger(row) || row <= lastRow) return;
    lastRow = row;
    socket.auth.serverOffset = row;
    unsent.arrived(row);
    rows.add(text);
  });

  byId("toggle").addEventListener("click", () => {
    wanted = !wanted;
    clearTimeout(again);
    refusedBecause = "";
    pause = PAUSE;
    if (wanted) socket.connect();
    else socket.disconnect();
    show();
  });
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("text");
    const text = field.value;
    if (text.trim() === "") return;
    if (text.length > LONGEST_TEXT) {
      complain(`Not accepted: the message has ${text.length} characters, more than ${LONGEST_TEXT}.`);
      return;
    }
    let message;
    try {
      message = waiting.add(text);
    } catch {
      complain("Not accepted: this browser has no more room to keep messages until they are stored.");
      return;
    }
    complain("");
    field.value = "";
    unsent.show(message);
    rows.follow();
    sendNext();
    show();
  });

  for (const message of waiting) unsent.show(message);
  byId("toggle").hidden = false;
  socket.connect();
  show();
}

if (typeof window.io === "function") {
  chat(window.io);
} else {
  byId("missing").hidden = false;
  byId("status").hidden = byId("form").hidden = true;
}
