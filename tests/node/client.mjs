// A JavaScript client that does what it is told, a line of JSON at a time, and tells what happens in the same way.
//
//     node client.mjs URL OPTIONS
//
// Commands: {"emit": [text, offset]}, {"disconnect": true}, {"connect": true}, {"queue": true}.
// Events: {"connect": socket id}, {"disconnect": reason}, {"error": message}, {"row": [text, id]}, {"again": [text, id]} for
// a row that is not after the last one, {"sent": offset} for each attempt, {"settled": [offset, error, reply]}, and
// {"queue": length} when it is asked for with {"queue": true}.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

const url = process.argv[2];
const options = JSON.parse(process.argv[3]);
if (options.retries === null) options.retries = Infinity; // which JSON does not know
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const socket = io(url, { auth: { serverOffset: 0 }, reconnectionDelay: 20, reconnectionDelayMax: 50, ...options });

socket.on("connect", () => say({ connect: socket.id }));
socket.on("disconnect", (reason) => say({ disconnect: reason }));
socket.on("connect_error", (error) => say({ error: error.message }));
socket.on("chat message", (text, row) => {
  if (row <= socket.auth.serverOffset) return say({ again: [text, row] });
  socket.auth.serverOffset = row;
  say({ row: [text, row] });
});
socket.onAnyOutgoing((_, __, offset) => say({ sent: offset }));

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.emit) {
    const [text, offset] = command.emit;
    socket.emit("chat message", text, offset, (error, reply) => {
      say({ settled: [offset, error ? error.message : null, reply ?? null] });
    });
  }
  if (command.disconnect) socket.disconnect();
  if (command.connect) socket.connect();
  if (command.queue) say({ queue: socket._queue.length });
}
process.exit(0);
