"""The outbox in a SQLite file.

Who does what: `outbox` is the face, and all of its state belongs to the event loop; `window` are the oldest messages,
which it has in memory; `worker` is the thread that alone writes to the file, through `store`; `reader` looks at the
file without owning it; `schema` are its tables, `rows` is how messages are written down, `files` are its errors, in
words.
"""

from reliable_emit.outbox.sqlite.outbox import SQLiteOutbox

__all__ = ["SQLiteOutbox"]
