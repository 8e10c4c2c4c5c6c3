"""The link: one namespace of one wrapped client. The only client-side room that touches socketio and engineio.

What it relies on beyond python-socketio's documented surface is little, and gathered here: the attributes ``eio``,
``eio.handlers``, ``eio.queue``, ``eio.state``, ``namespaces``, ``callbacks``, ``failed_namespaces`` and
``packet_class``, and the method ``_generate_ack_id``. The tests run against the lowest and the newest release that are
supported.
"""

from reliable_emit.link.link import Link
from reliable_emit.link.options import ConnectOptions

__all__ = ["ConnectOptions", "Link"]
