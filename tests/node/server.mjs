// A chat server in Node, built the way the Socket.IO tutorial builds its own: SQLite, a UNIQUE client offset, a replay
// after the reader's server offset. It keeps the tutorial's weaknesses; only a port and a file of choice are ours.
//
//     node server.mjs FILE PORT

import { createServer } from "node:http";
import { open } from "sqlite";
import sqlite3 from "sqlite3";
import { Server } from "socket.io";

const [file, port] = process.argv.slice(2);
const CONSTRAINT = 19; // SQLite's number for a violated constraint

const db = await open({ filename: file, driver: sqlite3.Database });
await db.exec("CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, client_offset TEXT UNIQUE, content TEXT)");

const http = createServer();
const io = new Server(http, { pingInterval: 5000, pingTimeout: 5000 });

io.on("connection", async (socket) => {
  socket.on("chat message", async (text, offset, acknowledge) => {
    let row;
    try {
      row = await db.run("INSERT INTO messages (content, client_offset) VALUES (?, ?)", text, offset);
    } catch (error) {
      if (error.errno === CONSTRAINT) acknowledge();
      return; // anything else: no acknowledgement, so that the client tries again
    }
    io.emit("chat message", text, row.lastID);
    acknowledge();
  });
  const since = socket.handshake.auth.serverOffset ?? 0;
  await db.each("SELECT id, content FROM messages WHERE id > ?", [since], (_, row) => {
    socket.emit("chat message", row.content, row.id);
  });
});

http.listen(Number(port), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${http.address().port}`));
