// Senders that send as fast as they are acknowledged, for the benchmarks.
//
//     node load.mjs URL EVENT SENDERS MESSAGES RUN SINCE
//
// Each message is 100 characters and the offset RUN-number; the same RUN once more sends repetitions. Prints a line of
// JSON: seconds until all were acknowledged, seconds until every sender, as a reader, has had every row after SINCE
// (null if none comes), and the median of the seconds that a message took.

import { io } from "socket.io-client";

const [url, event, senders, messages, run, since] = process.argv.slice(2);
const total = Number(messages);
const options = { transports: ["websocket"], forceNew: true, auth: { serverOffset: Number(since) } };
const sockets = [];
let rows = 0;
for (let number = 0; number < Number(senders); number += 1) {
  const socket = io(url, options);
  socket.on("chat message", () => (rows += 1));
  await new Promise((resolve, reject) => {
    socket.on("connect", resolve);
    socket.on("connect_error", reject);
  });
  sockets.push(socket);
}

const now = () => Number(process.hrtime.bigint()) / 1e9;
const took = [];
let next = 0;
const started = now();
await Promise.all(
  sockets.map(async (socket) => {
    while (next < total) {
      const offset = `${run}-${next++}`;
      const before = now();
      await socket.timeout(60_000).emitWithAck(event, "x".repeat(100), offset);
      took.push(now() - before);
    }
  }),
);
const acknowledged = now() - started;
let delivered = null;
if (rows > 0) {
  const deadline = now() + 60;
  while (rows < total * sockets.length && now() < deadline) await new Promise((resolve) => setTimeout(resolve, 2));
  if (rows < total * sockets.length) throw new Error(`only ${rows} of ${total * sockets.length} rows came`);
  delivered = now() - started;
}
took.sort((a, b) => a - b);
console.log(JSON.stringify({ acknowledged, delivered, median: took[took.length >> 1] }));
process.exit(0);
